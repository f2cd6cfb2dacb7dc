// Numbers and times for people.

/** 0.0123 seconds as `12.3 ms`. */
export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${round(value * 1000)} ms`;
  if (value < 120) return `${round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172_800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86_400)} d`;
}

/** A number with three digits that count. */
export function round(value) {
  if (value === 0 || Math.abs(value) >= 100) return String(Math.round(value));
  return Math.abs(value) >= 10 ? value.toFixed(1).replace(/\.0$/, "") : String(Number(value.toPrecision(2)));
}

/** 1234567 as `1.2 MB`. */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${round(value)} ${units[unit]}`;
}

/** How long ago that was. */
export const ago = (time, now = Date.now()) => {
  const passed = (now - new Date(time).getTime()) / 1000;
  return passed < 3 ? "just now" : `${seconds(Math.round(passed))} ago`;
};

/** The time of day, with milliseconds where asked. */
export const clock = (time, { millis = false } = {}) => new Date(time).toLocaleTimeString([], {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false,
  ...(millis && { fractionalSecondDigits: 3 }),
});

/** `1 call`, `2 calls`. */
export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
