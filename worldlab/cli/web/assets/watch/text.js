// Numbers, times and states as text.

/** Each state: its mark, which tells it apart without colours, and what it means. */
export const STATES = {
  training: { mark: "▶", says: "a process writes it now" },
  waiting: { mark: "○", says: "a cell that has not begun" },
  finished: { mark: "✓", says: "it ended by itself" },
  stopped: { mark: "■", says: "somebody stopped it; --resume continues it" },
  failed: { mark: "✕", says: "an error ended it" },
  diverged: { mark: "∞", says: "it produced numbers that are not finite" },
  killed: { mark: "†", says: "its process is gone; --resume continues it" },
  damaged: { mark: "?", says: "its run.json cannot be read" },
};

/** A number in few characters; "–" for none. */
export function short(value, digits = 4) {
  if (value == null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("e+", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

/** A whole number with commas. */
export const whole = (value) => (value == null ? "–" : Math.round(value).toLocaleString("en"));

/** Seconds as "42 s", "5 min", "3 h 20 min" or "12 d". */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  const minutes = Math.round(seconds / 60), hours = Math.floor(minutes / 60);
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (minutes < 100) return `${minutes} min`;
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.round(hours / 24)} d`;
}

/** How long ago something was, at the time `now`; both in seconds since 1970. */
export const ago = (then, now) => (then == null ? "–" : `${duration(Math.max(0, now - then))} ago`);

/** How far a run is, from 0 to 1; null if that is not known. */
export const progress = ({ step, steps }) => (step == null || !steps ? null : Math.min(1, step / steps));
