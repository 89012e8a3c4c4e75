// A slider for every task, and one for every group of its parameters on demand.

import { element } from "./dom.js";
import { Mixture, REST, number } from "./mixture.js";

const STEP = 0.01;

interface Row {
  whole: HTMLInputElement;
  shown: HTMLOutputElement;
  parts: { input: HTMLInputElement; shown: HTMLOutputElement }[];
}

export class Sliders {
  #rows: Row[] = [];
  #fields: HTMLFieldSetElement;

  constructor(
    place: HTMLElement,
    private readonly mixture: Mixture,
    private readonly moved: () => void,
  ) {
    this.#fields = element("fieldset", { class: "sliders" }, element("legend", { class: "unseen" }, "λ of every task"));
    mixture.tasks.forEach((_, task) => this.#fields.append(this.#row(task)));
    place.replaceChildren(this.#fields);
    this.show();
  }

  /** Shows what the mixture has now. */
  show(): void {
    this.#rows.forEach(({ whole, shown, parts }, task) => {
      const value = this.mixture.whole(task);
      const row = this.mixture.row(task);
      // Where groups differ, the task's slider stands at their mean, and moving it sets all of them.
      const mean = row.reduce((sum, lambda) => sum + lambda, 0) / Math.max(row.length, 1);
      whole.value = String(value ?? mean);
      shown.value = value === undefined ? "by group" : number(value);
      whole.setAttribute("aria-valuetext", shown.value);
      parts.forEach(({ input, shown: output }, group) => {
        input.value = String(row[group] ?? 0);
        output.value = number(row[group] ?? 0);
      });
    });
  }

  /** Whether the sliders say what is computed; they cannot be moved where the text says more. */
  set usable(usable: boolean) {
    this.#fields.disabled = !usable;
  }

  #row(task: number): HTMLElement {
    const name = this.mixture.tasks[task] ?? "";
    const whole = slider(`λ of ${name}`);
    const shown = element("output");
    whole.addEventListener("input", () => {
      this.mixture.setAll(task, whole.valueAsNumber);
      this.#changed();
    });
    const parts = this.mixture.groups.map((group, index) => {
      const input = slider(`λ of ${name}, ${groupName(group)}`);
      const output = element("output");
      input.addEventListener("input", () => {
        this.mixture.set(task, index, input.valueAsNumber);
        this.#changed();
      });
      return { input, shown: output };
    });
    this.#rows[task] = { whole, shown, parts };
    const lines = parts.map(({ input, shown: output }, index) =>
      element("div", { class: "slider part" }, element("span", {}, groupName(this.mixture.groups[index] ?? "")), input, output),
    );
    const line = element("div", { class: "slider" }, element("span", { class: "name" }, name), whole, shown);
    return element("div", { class: "task" }, line, element("details", {}, element("summary", {}, "by group"), ...lines));
  }

  #changed(): void {
    this.show();
    this.moved();
  }
}

export function groupName(group: string): string {
  return group === REST ? "the rest" : group;
}

function slider(label: string): HTMLInputElement {
  return element("input", { type: "range", min: -1, max: 1, step: STEP, "aria-label": label });
}
