// Figures over time: lines on a canvas each, and the same in words.

import { byId, duration, element, put, rate, size } from "./words.js";

const whole = (number) => Math.round(number).toLocaleString("en");

/** Each line: its name, its colour, and where its value stands in a sample. */
const CHARTS = [
  { title: "Requests per second", show: rate, lines: [["ok", "--good", 2], ["failed", "--bad", 3], ["submitted", "--accent", 1]] },
  { title: "Queue", show: whole, lines: [["running", "--accent", 5], ["waiting", "--warn", 4]] },
  { title: "From submission to end", show: duration, lines: [["half within", "--accent", 8], ["95% within", "--warn", 9]] },
  { title: "Engines", show: whole, lines: [["registered", "--accent", 6], ["busy", "--good", 7]] },
  { title: "Processors in use", show: (number) => number.toFixed(2), lines: [["controller", "--accent", 10], ["kernels", "--good", 12]] },
  { title: "Memory", show: size, unit: 1024 ** 2, lines: [["controller", "--accent", 11], ["kernels", "--good", 13]] },
];

export class Charts {
  constructor(container) {
    this.charts = CHARTS.map((chart) => {
      const values = chart.lines.map(([name, colour]) => {
        const mark = element("b");
        mark.style.background = `var(${colour})`;
        const value = element("span");
        return { name, value, label: element("span", {}, mark, `${name} `, value) };
      });
      const canvas = element("canvas");
      canvas.setAttribute("role", "img");
      container.append(element("figure", { className: "chart" },
        element("figcaption", {}, chart.title, ...values.map((value) => value.label)), canvas));
      return { ...chart, values, canvas };
    });
  }

  /** `samples` as the controller sends them, oldest first; `seconds` of them are shown. */
  draw(samples, seconds) {
    const last = samples.at(-1);
    if (!last) return;
    // As much as there is, and half a minute at least.
    const from = Math.max(last[0] - seconds * 1e6, Math.min(samples[0][0], last[0] - 30e6));
    const shown = samples.filter((sample) => sample[0] >= from);
    const style = getComputedStyle(document.documentElement);
    for (const chart of this.charts) this.drawOne(chart, shown, from, last[0], style);
  }

  drawOne(chart, samples, from, to, style) {
    const { canvas, lines, show, values } = chart;
    const now = samples.at(-1);
    const words = lines.map(([name, , index], line) => {
      const text = now[index] == null ? "–" : show(now[index]);
      put(values[line].value, text);
      return `${name} ${text}`;
    });
    const most = Math.max(...samples.flatMap((sample) => lines.map(([, , index]) => sample[index] ?? 0)), 0);
    canvas.setAttribute("aria-label", `${chart.title}: ${words.join(", ")}; at most ${show(most)}.`);

    const pen = sized(canvas);
    if (!pen) return;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const top = ceiling(most / (chart.unit ?? 1)) * (chart.unit ?? 1);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = style.getPropertyValue("--faint");
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.lineWidth = 1;
    pen.beginPath();
    for (const part of [0, 0.5, 1]) {
      const y = Math.round(14 + (height - 18) * part) + 0.5;
      pen.moveTo(0, y);
      pen.lineTo(width, y);
    }
    pen.stroke();
    pen.fillText(show(top), 0, 10);
    const x = (sample) => ((sample[0] - from) / (to - from)) * width;
    const y = (value) => 14 + (height - 18) * (1 - value / top);
    for (const [, colour, index] of [...lines].reverse()) {
      pen.strokeStyle = style.getPropertyValue(colour);
      pen.lineWidth = 1.75;
      pen.lineJoin = "round";
      pen.beginPath();
      let isDown = false;
      for (const sample of thinned(samples, index, width)) {
        const value = sample[index];
        if (value == null) { isDown = false; continue; }
        if (isDown) pen.lineTo(x(sample), y(value));
        else { pen.moveTo(x(sample) - 1, y(value)); pen.lineTo(x(sample), y(value)); }
        isDown = true;
      }
      pen.stroke();
    }
  }
}

/** The highest sample for each point of the screen. */
function thinned(samples, index, width) {
  const step = Math.ceil(samples.length / Math.max(width, 1));
  if (step < 2) return samples;
  const kept = [];
  for (let at = 0; at < samples.length; at += step) {
    kept.push(samples.slice(at, at + step).reduce((most, one) => ((one[index] ?? 0) > (most[index] ?? 0) ? one : most)));
  }
  return kept;
}

/** 1, 2 or 5 with zeros, not less than the value. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((round) => round >= value * 0.999);
}

/** The pen of a canvas that has as many points as the screen; nothing while it is not shown. */
export function sized(canvas, width = canvas.clientWidth, height = canvas.clientHeight) {
  if (!width || !height) return null;
  const scale = window.devicePixelRatio || 1;
  const wanted = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wanted[0] || canvas.height !== wanted[1]) [canvas.width, canvas.height] = wanted;
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return pen;
}

export const chartSpan = () => Number(byId("span").value);
