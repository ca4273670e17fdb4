import type { Browser } from 'playwright-core';

/** Draws the panels of the dashboard with the results of its queries, on machines without Grafana. */

export interface Series {
  readonly name: string;
  readonly values: readonly (readonly [number, string])[];
}

const WIDTH = 400;
const HEIGHT = 130;
const COLOURS = ['#73bf69', '#f2cc0c', '#5794f2', '#ff780a', '#f2495c', '#b877d9', '#37872d', '#fade2a', '#8ab8ff'];

/** Saves a picture of the panels as `file`. */
export async function drawDashboard(
  browser: Browser,
  panels: readonly { title: string; series: readonly Series[] }[],
  file: string,
): Promise<void> {
  const page = await browser.newPage({ viewport: { width: 1_320, height: 800 } });
  const style = `body{background:#111217;color:#ccccdc;font:12px sans-serif;margin:12px;display:grid;
    grid-template-columns:repeat(3,1fr);gap:8px} section{background:#181b1f;border:1px solid #2c3235;padding:8px}
    h2{font-size:13px;margin:0 0 4px} ul{list-style:none;padding:0;margin:4px 0 0;display:flex;flex-wrap:wrap;gap:2px 10px}
    svg{width:100%;height:${HEIGHT}px}`;
  await page.setContent(`<style>${style}</style>${panels.map(panel).join('')}`);
  await page.screenshot({ path: file, fullPage: true });
  await page.close();
}

function panel({ title, series }: { title: string; series: readonly Series[] }): string {
  const numbers = series.flatMap(({ values }) => values.map(([, value]) => Number(value))).filter(Number.isFinite);
  const times = series.flatMap(({ values }) => values.map(([time]) => time));
  const [from, to, maximum] = [Math.min(...times), Math.max(...times), Math.max(1e-9, ...numbers)];
  const lines = series.map(({ values }, i) => {
    const points = values
      .filter(([, value]) => Number.isFinite(Number(value)))
      .map(
        ([time, value]) =>
          `${((time - from) / (to - from || 1)) * WIDTH},${HEIGHT - 4 - (Number(value) / maximum) * (HEIGHT - 12)}`,
      );
    return `<polyline fill="none" stroke-width="1.5" stroke="${COLOURS[i % COLOURS.length]}" points="${points.join(' ')}"/>`;
  });
  const legend = series.map(
    ({ name }, i) => `<li><span style="color:${COLOURS[i % COLOURS.length]}">▬</span> ${name}</li>`,
  );
  return `<section><h2>${title} <small>max ${maximum.toPrecision(3)}</small></h2>
    <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none">${lines.join('')}</svg><ul>${legend.join('')}</ul></section>`;
}
