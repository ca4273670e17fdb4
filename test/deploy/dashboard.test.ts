import { readFileSync } from 'node:fs';
import t from 'tap';
import { violations } from './schemas.ts';

/** The dashboard of `deploy/`, by Grafana's published schemas. `test/prometheus.test.ts` runs its queries. */

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly options?: unknown;
  readonly fieldConfig?: { readonly defaults: { readonly custom?: unknown } };
  readonly targets?: readonly object[];
}

const text = readFileSync('deploy/grafana/dashboards/sluice.json', 'utf8');
const dashboard = JSON.parse(text) as { panels: Panel[] };

t.test('the dashboard, its panels and its queries are valid by the published schemas', (t) => {
  t.same(violations('grafana-dashboard', dashboard), []);
  for (const { title, type, options, fieldConfig, targets = [] } of dashboard.panels) {
    if (type === 'row') continue;
    t.equal(type, 'timeseries', `${title} is of the type whose schema is checked`);
    t.same(violations('grafana-timeseries#/definitions/Options', options), [], title);
    t.same(violations('grafana-timeseries#/definitions/FieldConfig', fieldConfig?.defaults.custom), [], title);
    for (const target of targets) t.same(violations('grafana-prometheus', target), [], title);
    t.ok(targets.length > 0, `${title} has a query`);
  }
  t.match(violations('grafana-timeseries#/definitions/Options', { legend: {} }).join(), 'tooltip', 'a fault is found');
  t.end();
});

t.test('ids are unique, and no panel covers another', (t) => {
  const { panels } = dashboard;
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  for (const [i, { title, gridPos: a }] of panels.entries()) {
    t.ok(a.x + a.w <= 24, `${title} fits in the width`);
    for (const { title: other, gridPos: b } of panels.slice(i + 1)) {
      const covers = a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
      if (covers) t.fail(`${title} covers ${other}`);
    }
  }
  t.end();
});
