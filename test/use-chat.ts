/**
 * Source of `useChat` for a page. The project does not depend on `@ai-sdk/react`, whose `useChat` is the same: the
 * `AbstractChat` of `ai`, with its state in React.
 */
export const USE_CHAT = `
import { AbstractChat } from 'ai';
import { useEffect, useRef, useSyncExternalStore } from 'react';

class State {
  listeners = new Set();
  snapshot = (value) => structuredClone(value);
  #values = { messages: [], status: 'ready', error: undefined };
  #set(change) {
    this.#values = { ...this.#values, ...change };
    for (const listener of this.listeners) listener();
  }
  get values() { return this.#values; }
  get messages() { return this.#values.messages; }
  set messages(messages) { this.#set({ messages }); }
  get status() { return this.#values.status; }
  set status(status) { this.#set({ status }); }
  get error() { return this.#values.error; }
  set error(error) { this.#set({ error }); }
  pushMessage(message) { this.messages = [...this.messages, message]; }
  popMessage() { this.messages = this.messages.slice(0, -1); }
  replaceMessage(index, message) { this.messages = this.messages.with(index, structuredClone(message)); }
}

class Chat extends AbstractChat {
  get store() { return this.state; }
}

export function useChat({ resume, ...options }) {
  const ref = useRef();
  const chat = (ref.current ??= new Chat({ ...options, state: new State() }));
  const subscribe = (listener) => {
    chat.store.listeners.add(listener);
    return () => chat.store.listeners.delete(listener);
  };
  const values = useSyncExternalStore(subscribe, () => chat.store.values);
  useEffect(() => {
    if (resume) chat.resumeStream();
  }, [resume, chat]);
  return { id: chat.id, sendMessage: chat.sendMessage, stop: chat.stop, ...values };
}
`;
