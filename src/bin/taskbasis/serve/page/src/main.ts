// The page of `taskbasis serve`: sliders for tasks, and what the model makes of images while they move.

import * as api from "./api.js";
import { byId, element } from "./dom.js";
import { drawHeatMap } from "./heatmap.js";
import { Images } from "./images.js";
import { Mixture, REST } from "./mixture.js";
import { Shown, byProbability, drawBars, timingText } from "./results.js";
import { Sliders } from "./sliders.js";
import { LANGUAGES, snippet } from "./snippets.js";

/** More groups of blocks than this are joined: twenty-four sliders per task tell the eye nothing. */
const MOST_BLOCK_GROUPS = 6;
/** Typing is looked at when it rests for so many milliseconds. */
const TYPING_RESTS = 250;

class Page {
  #model!: api.Model;
  #tasks!: api.Tasks;
  #mixture!: Mixture;
  #sliders!: Sliders;
  #images: Images;
  #heads = new Set<string>();
  /** What the second column shows, if there is one. */
  #other: string | undefined;
  #answers: Shown[] = [];
  /** The request that is under way, and whether what it asks for is no longer what is wanted. */
  #running: AbortController | undefined;
  #isStale = false;
  #text = byId<HTMLTextAreaElement>("expression");

  constructor() {
    this.#images = new Images(() => this.#ask(), (message) => this.#say(message));
  }

  async start(): Promise<void> {
    try {
      [this.#model, this.#tasks] = await Promise.all([api.model(), api.tasks()]);
    } catch (error) {
      if (error instanceof api.Refused && error.status === 401) {
        return this.#askForToken();
      }
      return this.#fail(error);
    }
    this.#mixture = new Mixture(
      this.#tasks.tasks.map((task) => task.name),
      groupsOf(this.#tasks.groups),
    );
    const { model, architecture, parameters, vectors, kernel, precision, version } = this.#model;
    byId("model").textContent =
      `${model}: ${this.#mixture.tasks.length} tasks in ${vectors} vectors, ${(parameters / 1e6).toFixed(1)} M ` +
      `parameters, ${architecture.layers} layers, ${precision}, ${kernel} kernel, taskbasis ${version}`;
    this.#sliders = new Sliders(byId("sliders"), this.#mixture, () => this.#moved());
    this.#headChoice();
    this.#names();
    this.#buttons();
    byId("app").hidden = false;
    const first = this.#mixture.tasks.findIndex((task) => this.#heads.has(task));
    this.#mixture.setAll(Math.max(first, 0), 1);
    this.#moved(false);
    this.#images.useBuiltIn(this.#mixture.tasks[Math.max(first, 0)] ?? "");
  }

  #headChoice(): void {
    const { heads } = this.#tasks;
    const boxes = heads.map((name, index) => {
      const box = element("input", { type: "checkbox", value: name });
      box.checked = index === 0;
      if (index === 0) {
        this.#heads.add(name);
      }
      box.addEventListener("change", () => {
        this.#heads[box.checked ? "add" : "delete"](name);
        this.#ask();
      });
      return element("label", {}, box, name);
    });
    byId("heads").append(...boxes);
    if (heads.length === 0) {
      this.#say("The model has no heads, so there are no classes to show.");
    }
  }

  /** Expressions that the bundle keeps, as buttons. */
  #names(): void {
    const names = ["base", ...this.#tasks.names, "all@0.3"];
    byId("names").append(
      ...names.map((name) => {
        const button = element("button", { type: "button" }, name);
        button.addEventListener("click", () => {
          this.#text.value = name;
          this.#typed();
        });
        return button;
      }),
    );
  }

  #buttons(): void {
    let timer = 0;
    this.#text.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#typed(), TYPING_RESTS);
    });
    byId("zero").addEventListener("click", () => {
      this.#mixture.clear();
      this.#moved();
    });
    byId("compare").addEventListener("click", () => {
      this.#other = this.#other === undefined ? this.#text.value : undefined;
      byId("compare").setAttribute("aria-pressed", String(this.#other !== undefined));
      this.#ask();
    });
    for (const language of LANGUAGES) {
      const button = element("button", { type: "button" }, `Copy as ${language}`);
      button.addEventListener("click", () => void this.#copy(language));
      byId("copy").append(button);
    }
  }

  /** A slider moved: the text follows. */
  #moved(asks = true): void {
    this.#text.value = this.#mixture.text();
    this.#sliders.usable = true;
    this.#sliders.show();
    byId("beyond").hidden = true;
    drawHeatMap(this.#mixture);
    if (asks) {
      this.#ask();
    }
  }

  /** The text changed: the sliders follow where they can. */
  #typed(): void {
    const isShown = this.#mixture.read(this.#text.value);
    this.#sliders.usable = isShown;
    byId("beyond").hidden = isShown;
    if (isShown) {
      this.#sliders.show();
      drawHeatMap(this.#mixture);
    }
    this.#ask();
  }

  /** Asks for what is wanted now; while an answer is awaited, only the last wish is kept. */
  #ask(): void {
    this.#isStale = true;
    if (!this.#running) {
      byId("bars").setAttribute("aria-busy", "true");
      void this.#askUntilFresh().finally(() => byId("bars").setAttribute("aria-busy", "false"));
    }
  }

  async #askUntilFresh(): Promise<void> {
    while (this.#isStale) {
      this.#isStale = false;
      const images = this.#images.pictures.map((picture) => picture.data);
      const heads = [...this.#heads];
      if (images.length === 0 || heads.length === 0) {
        byId("bars").replaceChildren();
        continue;
      }
      this.#running = new AbortController();
      try {
        const started = performance.now();
        const text = this.#text.value;
        const answers = [{ label: "now", answer: await api.classify(text, heads, images, this.#running.signal) }];
        const roundTrip = performance.now() - started;
        if (this.#other !== undefined) {
          const answer = await api.classify(this.#other, heads, images, this.#running.signal);
          answers.push({ label: this.#other, answer });
        }
        this.#answers = answers;
        this.#draw(roundTrip);
        this.#say("");
      } catch (error) {
        this.#fail(error);
      } finally {
        this.#running = undefined;
      }
    }
  }

  #draw(roundTrip: number): void {
    const { chosen, pictures } = this.#images;
    drawBars(this.#answers, chosen);
    const now = this.#answers[0]?.answer;
    if (!now) {
      return;
    }
    byId("timing").textContent = timingText(now, roundTrip);
    const results = now.results;
    const best = (result: api.Classified["results"][number] | undefined, image: number): string =>
      byProbability(result?.images[image]?.scores ?? [])[0]?.class ?? "";
    this.#images.caption(
      pictures.map(({ known }, index) => {
        const own = results.find((result) => result.head === known?.task) ?? results[0];
        return best(own, index);
      }),
    );
    const told = results.map((result) => `${result.head}: ${best(result, chosen)}`).join(", ");
    const name = pictures[chosen]?.known;
    byId("best").textContent = `${told}${name ? ` (the image is ${name.task} ${name.class})` : ""}`;
  }

  async #copy(language: string): Promise<void> {
    const head = [...this.#heads][0] ?? "TASK";
    const text = snippet(language, this.#model.model, this.#text.value, head);
    byId("snippet").textContent = text;
    try {
      await navigator.clipboard.writeText(text);
      this.#say(`Copied as ${language}.`);
    } catch {
      // Browsers refuse pages without a secure origin; it can be read and copied by hand.
      this.#say(`As ${language}, below.`);
    }
  }

  #askForToken(): void {
    const form = byId<HTMLFormElement>("token-form");
    form.hidden = false;
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        api.useToken(byId<HTMLInputElement>("token").value);
        form.hidden = true;
        void this.start();
      },
      { once: true },
    );
  }

  #say(message: string): void {
    const place = byId("message");
    place.textContent = message;
    place.classList.remove("error");
  }

  #fail(error: unknown): void {
    const refused = error instanceof api.Refused ? error : undefined;
    const message = error instanceof Error ? error.message : String(error);
    const place = byId("message");
    place.textContent = refused?.hint ? `${message} ${refused.hint}` : message;
    place.classList.add("error");
  }
}

/** The stem, the blocks, joined to a few ranges, and the rest. */
function groupsOf(all: readonly string[]): string[] {
  const blocks = all.filter((group) => /^blocks\.\d+$/.test(group)).length;
  const size = Math.max(1, Math.ceil(blocks / MOST_BLOCK_GROUPS));
  const ranges: string[] = [];
  for (let first = 0; first < blocks; first += size) {
    const last = Math.min(first + size, blocks) - 1;
    ranges.push(first === last ? `blocks.${first}` : `blocks.${first}-${last}`);
  }
  return [...all.filter((group) => group === "stem"), ...ranges, REST];
}

void new Page().start();
