// Bars of classes, of one expression or of two beside each other.

import type { Classified, Score } from "./api.js";
import { byId, element } from "./dom.js";

/** More classes than this are cut to the likeliest. */
const MOST_CLASSES = 24;

/** What an expression gives for the image that is shown, by head. */
export interface Shown {
  label: string;
  answer: Classified;
}

export function drawBars(shown: Shown[], image: number): void {
  const place = byId("bars");
  const heads = shown[0]?.answer.results.map((result) => result.head) ?? [];
  place.replaceChildren(...heads.map((head) => headBars(head, shown, image)));
}

function headBars(head: string, shown: Shown[], image: number): HTMLElement {
  const columns = shown.map(({ label, answer }) => {
    const scores = answer.results.find((result) => result.head === head)?.images[image]?.scores ?? [];
    return { label, scores, of: new Map(scores.map((score) => [score.class, score])) };
  });
  // The classes keep their places while sliders move, in the order of the head; of many, the likeliest are shown.
  const likeliest = new Set(columns.flatMap(({ scores }) => byProbability(scores).slice(0, MOST_CLASSES)).map((s) => s.class));
  const names = [...new Set(columns.flatMap(({ scores }) => scores.map((score) => score.class)))].sort(inOrder);
  const rows = names
    .filter((name) => names.length <= MOST_CLASSES || likeliest.has(name))
    .map((name) => {
      const cells = columns.map(({ scores, of }) => bar(of.get(name), byProbability(scores)[0]?.class === name));
      return element("tr", {}, element("th", { scope: "row" }, name), ...cells);
    });
  const titles = columns.map(({ label }) => element("th", { scope: "col" }, label));
  return element(
    "table",
    { class: "bars" },
    element("caption", {}, head),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "class"), ...titles)),
    element("tbody", {}, ...rows),
  );
}

function bar(score: Score | undefined, isBest: boolean): HTMLElement {
  const percent = 100 * (score?.probability ?? 0);
  const fill = element("span", { class: "fill" });
  fill.style.width = `${percent.toFixed(1)}%`;
  const value = element("span", { class: "value" }, `${percent.toFixed(1)} %`);
  return element("td", { class: isBest ? "best" : "" }, element("span", { class: "track" }, fill), value);
}

export function byProbability(scores: Score[]): Score[] {
  return [...scores].sort((a, b) => b.probability - a.probability);
}

function inOrder(a: string, b: string): number {
  return a.localeCompare(b, undefined, { numeric: true });
}

/** The time that an answer took, part by part. */
export function timingText({ timing, cached }: Classified, roundTrip: number): string {
  const weights = cached ? "weights cached" : `weights rebuilt in ${ms(timing.weights_ms)}`;
  return `${weights}, run ${ms(timing.run_ms)}, waited ${ms(timing.queue_ms)}; ${ms(roundTrip)} with the way here and back`;
}

function ms(value: number): string {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
}
