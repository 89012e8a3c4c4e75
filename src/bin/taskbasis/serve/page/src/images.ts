// The images that are classified: given by the user, or the ones that the page brings.

import { byId, element } from "./dom.js";
import samples from "./samples.json";

export interface Picture {
  /** What the user calls it. */
  name: string;
  /** The file as a data URL. */
  data: string;
  /** The task that it is of and its class, where they are known. */
  known?: { task: string; class: string };
}

/** The most images at once: each move of a slider classifies all of them. */
const MOST = 16;

export class Images {
  #pictures: Picture[] = [];
  #chosen = 0;
  #strip = byId("strip");

  constructor(
    private readonly changed: () => void,
    private readonly failed: (message: string) => void,
  ) {
    const input = byId<HTMLInputElement>("files");
    input.addEventListener("change", () => {
      void this.#add([...(input.files ?? [])]);
      input.value = "";
    });
    byId("samples").addEventListener("click", () => this.#replace(builtIn()));
    byId("no-images").addEventListener("click", () => this.#replace([]));
    const drop = document.body;
    drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("dragging");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("dragging"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("dragging");
      void this.#add([...(event.dataTransfer?.files ?? [])]);
    });
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length > 0) {
        void this.#add(files);
      }
    });
  }

  get pictures(): readonly Picture[] {
    return this.#pictures;
  }

  /** The place of the one whose classes are shown. */
  get chosen(): number {
    return this.#chosen;
  }

  /** Shows those that the page brings; first the one of this task. */
  useBuiltIn(task: string): void {
    const pictures = builtIn();
    this.#replace(pictures, Math.max(0, pictures.findIndex(({ known }) => known?.task === task)));
  }

  /** Writes below each image what it is taken for. */
  caption(captions: string[]): void {
    this.#strip.querySelectorAll("figcaption").forEach((caption, index) => {
      caption.textContent = captions[index] ?? "";
    });
  }

  #replace(pictures: Picture[], chosen = 0): void {
    this.#pictures = pictures.slice(0, MOST);
    this.#chosen = chosen;
    this.#draw();
    this.changed();
  }

  async #add(files: File[]): Promise<void> {
    const images = files.filter((file) => file.type.startsWith("image/"));
    if (images.length < files.length) {
      this.failed("What is no image was left out.");
    }
    const read = await Promise.all(images.map(picture));
    if (read.length > 0) {
      const fromUser = this.#pictures.filter((one) => !one.known);
      if (fromUser.length + read.length > MOST) {
        this.failed(`At most ${MOST} images at once: the first ones were left out.`);
      }
      this.#pictures = [...fromUser, ...read].slice(-MOST);
      this.#chosen = Math.max(this.#pictures.length - read.length, 0);
      this.#draw();
      this.changed();
    }
  }

  #draw(): void {
    const shown = this.#pictures.map(({ name, data, known }, index) => {
      const alt = known ? `${known.task}: ${known.class}` : name;
      const label = `Show the classes of ${alt}`;
      const button = element(
        "button",
        { type: "button", "aria-pressed": String(index === this.#chosen), "aria-label": label },
        element("img", { src: data, alt: "" }),
      );
      button.addEventListener("click", () => {
        this.#chosen = index;
        this.#strip.querySelectorAll("button").forEach((other, at) => {
          other.setAttribute("aria-pressed", String(at === index));
        });
        this.changed();
      });
      return element("figure", {}, button, element("figcaption"));
    });
    this.#strip.replaceChildren(...shown);
  }
}

function builtIn(): Picture[] {
  return samples.map(({ task, class: name, image }) => ({ name: `${task} ${name}`, data: image, known: { task, class: name } }));
}

function picture(file: File): Promise<Picture> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve({ name: file.name, data: String(reader.result) }));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}
