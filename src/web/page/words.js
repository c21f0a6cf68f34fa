// Numbers, times and sizes in words, and elements by name.

export const byId = (id) => document.getElementById(id);

/** Makes an element; its text is never taken for markup. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Changes a node's text only where it differs, so that selections and screen readers are left alone. */
export function put(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

export const count = (number) => number.toLocaleString("en");

export function rate(number) {
  return number >= 100 ? count(Math.round(number)) : number >= 10 ? number.toFixed(1) : number.toFixed(number ? 2 : 0);
}

/** Seconds, as `12 ms`, `3.4 s`, `5:06`, `2:10:00`. */
export function duration(seconds) {
  if (seconds == null || Number.isNaN(seconds)) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)} h` : `${minutes}:${two(whole % 60)} min`;
}

/** Milliseconds since 1970 of a date in ISO 8601, with the microseconds that `Date` leaves away. */
export function milliseconds(text) {
  const [, rest] = /\.\d{3}(\d{1,3})/.exec(text) ?? [null, "0"];
  return Date.parse(text) + Number(`0.${rest}`);
}

export function size(bytes) {
  if (bytes == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes ? Math.min(Math.floor(Math.log2(bytes) / 10), 4) : 0;
  const value = bytes / 1024 ** power;
  return `${value.toFixed(power && value < 100 ? 1 : 0)} ${units[power]}`;
}

export function clock(milliseconds, withMillis = false) {
  const date = new Date(milliseconds);
  const time = date.toLocaleTimeString("en-GB");
  return withMillis ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}

/** A request's id without most of its session, which all of a client's have in common. */
export const shortId = (id) => id.replace(/^([0-9a-f]{4})[0-9a-f-]{8,}(_|$)/i, "$1…$2");
