"""FastAPI with the openai SDK: what a Python team writes for itself. Answers like `GET /ask/stream` of Sluice."""

import json
import os

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI, DefaultAioHttpClient

app = FastAPI()
# The README of the SDK recommends aiohttp for many concurrent calls. The SDK's limit of 1,000 connections is its default.
client = AsyncOpenAI(base_url=os.environ["UPSTREAM"], api_key="bench", http_client=DefaultAioHttpClient())


async def events(question: str):
    messages = [{"role": "user", "content": question}]
    async with await client.chat.completions.create(model="bench", messages=messages, stream=True) as chunks:
        async for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f'data: {json.dumps({"type": "delta", "content": chunk.choices[0].delta.content})}\n\n'
    yield 'data: {"type":"end"}\n\n'


@app.get("/ask/stream")
async def ask(question: str):
    return StreamingResponse(events(question), media_type="text/event-stream")
