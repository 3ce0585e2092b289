// What the page knows: the rows of all runs, and the curves of the one that is shown. No document is needed here.

export class Store {
  constructor() {
    this.rows = new Map();
    this.about = { folder: "", problem: "", reading: false, now: 0 };
    this.run = null;
  }

  /** Take in a message of the server. Returns "list" or "run": what must be drawn again; null for what is not shown. */
  apply(message) {
    if (message.type === "runs") {
      if (message.first) this.rows.clear();
      for (const number of message.gone) this.rows.delete(number);
      for (const row of message.rows) this.rows.set(row.id, row);
      const { folder, problem, reading, now } = message;
      this.about = { folder, problem, reading, now };
      return "list";
    }
    if (message.type !== "run" || !this.run || message.id !== this.run.id) return null;
    const { curves, names, type, ...details } = message;
    for (const [name, points] of Object.entries(curves)) this.run.curves.set(name, extended(this.run.curves.get(name), points));
    for (const name of this.run.curves.keys()) if (!names.includes(name)) this.run.curves.delete(name);
    this.run = { ...this.run, ...details };
    return "run";
  }

  /** Show a run, or with null the list. */
  show(id) { this.run = id == null ? null : { id, curves: new Map() }; }
}

/** A curve with new points: those from `points.from` on replace what was there. */
export function extended(curve, points) {
  if (!curve || points.from === 0) return { x: points.x, y: points.y };
  return { x: [...curve.x.slice(0, points.from), ...points.x], y: [...curve.y.slice(0, points.from), ...points.y] };
}

/** Whether a row contains every word of a text. */
export function matches(row, text) {
  const where = [row.name, row.env, row.parts, row.agent, row.state, row.method, row.error].join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => where.includes(word));
}

const TEXTS = new Set(["name", "state", "env"]);
const UPWARDS = new Set(["left"]);

/** Rows in the order of a column: texts from A, times left from the least, other numbers from the largest; unknown last. */
export function sorted(rows, column) {
  const known = (row) => row[column] != null && row[column] !== "";
  const sign = UPWARDS.has(column) ? 1 : -1;
  const order = TEXTS.has(column)
    ? (a, b) => a[column].localeCompare(b[column], "en", { numeric: true })
    : (a, b) => sign * (a[column] - b[column]);
  return [...rows].sort((a, b) => (known(b) - known(a)) || (known(a) ? order(a, b) : 0) || a.id - b.id);
}

/** The comparisons among the rows: [{ name, envs, methods, cells }], cells by "method\nenv" in the order of seeds. */
export function comparisons(rows) {
  const found = new Map();
  for (const row of rows) {
    if (!row.comparison) continue;
    if (!found.has(row.comparison)) found.set(row.comparison, { name: row.comparison, envs: new Set(), methods: new Set(), cells: new Map() });
    const one = found.get(row.comparison), key = `${row.method}\n${row.env}`;
    one.envs.add(row.env);
    one.methods.add(row.method);
    one.cells.set(key, [...(one.cells.get(key) ?? []), row].sort((a, b) => a.seed - b.seed));
  }
  return [...found.values()].map((one) => ({ ...one, envs: [...one.envs].sort(), methods: [...one.methods].sort() }))
    .sort((a, b) => a.name.localeCompare(b.name));
}

/** How many rows are in each state: [["training", 3], ...], the most frequent first. */
export function counted(rows) {
  const counts = new Map();
  for (const { state } of rows) counts.set(state, (counts.get(state) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
}

const HIDDEN = new Set(["episode/return", "eval/return", "eval/episodes", "eval/dream_horizon", "eval/dream_starts", "episode/count", "updates", "perf/seconds", "perf/time"]);
/** The sections of a run's page, and the beginnings of the names of their curves. */
export const SECTIONS = [
  ["Losses", ["loss/"]],
  ["Health", ["latent/", "decoder/", "encoder/", "dynamics/"]],
  ["Agent", ["agent/"]],
  ["Evaluation", ["eval/", "held_out/"]],
  ["Gradients", ["grad_norm/"]],
  ["Machine", ["perf/"]],
  ["Other", [""]],
];

/** The names of curves by section, sorted; sections without any are left out. */
export function sections(names) {
  const left = new Set([...names].filter((name) => !HIDDEN.has(name)));
  const found = [];
  for (const [title, beginnings] of SECTIONS) {
    const mine = [...left].filter((name) => beginnings.some((beginning) => name.startsWith(beginning))).sort();
    mine.forEach((name) => left.delete(name));
    if (mine.length) found.push([title, mine]);
  }
  return found;
}
