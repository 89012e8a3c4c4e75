// A mixture of tasks: a λ for every task and group of parameters, as the sliders have it, and its text.
//
// The text is a task expression (docs/arithmetic.md). Every mixture has one; not every expression is a mixture, since
// expressions can name more than the sliders have. Such a text is sent as it is, and the sliders say so.

/** The group that has all parameters that no other group has. */
export const REST = "*";

export class Mixture {
  /** λ by task, then group; the last group is the rest. */
  readonly lambda: number[][];

  constructor(readonly tasks: readonly string[], readonly groups: readonly string[]) {
    this.lambda = tasks.map(() => groups.map(() => 0));
  }

  row(task: number): number[] {
    return this.lambda[task] ?? [];
  }

  setAll(task: number, value: number): void {
    this.row(task).fill(value);
  }

  set(task: number, group: number, value: number): void {
    this.row(task)[group] = value;
  }

  /** The λ that all groups of a task have; undefined where they differ. */
  whole(task: number): number | undefined {
    const row = this.row(task);
    return row.every((value) => value === row[0]) ? row[0] : undefined;
  }

  clear(): void {
    this.lambda.forEach((row) => row.fill(0));
  }

  /** The expression; of nothing it is the base. */
  text(): string {
    let text = "";
    this.tasks.forEach((task, index) => {
      const row = this.row(index);
      if (row.every((value) => value === 0)) {
        return;
      }
      const whole = this.whole(index);
      const name = spelled(task);
      if (whole === undefined) {
        text += `${text ? " + " : ""}${name}@{${this.#inGroups(row)}}`;
      } else {
        const sign = whole < 0 ? (text ? " - " : "-") : text ? " + " : "";
        const size = Math.abs(whole);
        text += `${sign}${name}${size === 1 ? "" : `@${number(size)}`}`;
      }
    });
    return text || "base";
  }

  #inGroups(row: readonly number[]): string {
    const rest = row[row.length - 1] ?? 0;
    const own = this.groups.flatMap((group, index) => {
      const value = row[index] ?? 0;
      return group === REST || value === rest ? [] : [`${group}: ${number(value)}`];
    });
    return [...own, `${REST}: ${number(rest)}`].join(", ");
  }

  /** Takes over what an expression says; false, and nothing changed, where it says more than sliders can. */
  read(text: string): boolean {
    const read = new Mixture(this.tasks, this.groups);
    if (!new Reader(text).into(read)) {
      return false;
    }
    read.lambda.forEach((row, task) => row.forEach((value, group) => this.set(task, group, value)));
    return true;
  }
}

/** A number as short as its three digits allow. */
export function number(value: number): string {
  return String(Math.round(value * 1000) / 1000);
}

/** A task's name as expressions spell it. */
export function spelled(name: string): string {
  return /^[\p{L}\p{N}_./]+$/u.test(name) ? name : `"${name.replace(/[\\"]/g, "\\$&")}"`;
}

const NUMBER = /^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)/;

class Reader {
  #rest: string;

  constructor(text: string) {
    this.#rest = text.trim();
  }

  into(mixture: Mixture): boolean {
    if (this.#rest === "base") {
      return true;
    }
    let sign = this.#take(/^([+-])/)?.[1] === "-" ? -1 : 1;
    for (;;) {
      const task = mixture.tasks.indexOf(this.#name() ?? "");
      const scale = task < 0 ? undefined : this.#scale(mixture.groups);
      if (!scale) {
        return false;
      }
      scale.forEach((value, group) => mixture.set(task, group, tidy((mixture.row(task)[group] ?? 0) + sign * value)));
      const next = this.#take(/^\s*([+-])/)?.[1];
      if (!next) {
        return this.#rest.trim() === "";
      }
      sign = next === "-" ? -1 : 1;
    }
  }

  #take(pattern: RegExp): RegExpExecArray | undefined {
    const found = pattern.exec(this.#rest);
    if (found) {
      this.#rest = this.#rest.slice(found[0].length);
    }
    return found ?? undefined;
  }

  #name(): string | undefined {
    const quoted = this.#take(/^\s*"((?:[^"\\]|\\.)*)"/);
    return quoted ? (quoted[1] ?? "").replace(/\\(.)/g, "$1") : this.#take(/^\s*([\p{L}\p{N}_./]+)/u)?.[1];
  }

  #number(): number | undefined {
    const found = this.#take(NUMBER)?.[1];
    return found === undefined ? undefined : Number(found);
  }

  /** A λ for each group: of `@0.3`, of `@{attn: 0.3, …}`, or 1. */
  #scale(groups: readonly string[]): number[] | undefined {
    if (!this.#take(/^\s*@/)) {
      return groups.map(() => 1);
    }
    if (!this.#take(/^\s*\{/)) {
      const value = this.#number();
      return value === undefined ? undefined : groups.map(() => value);
    }
    const own = new Map<string, number>();
    do {
      const group = this.#take(/^\s*([*\w.-]+)\s*:/)?.[1];
      const value = group === undefined ? undefined : this.#number();
      if (group === undefined || value === undefined || !groups.includes(group) || own.has(group)) {
        return undefined;
      }
      own.set(group, value);
    } while (this.#take(/^\s*,/));
    const rest = own.get(REST);
    if (!this.#take(/^\s*\}/) || (rest === undefined && own.size < groups.length)) {
      return undefined;
    }
    return groups.map((group) => own.get(group) ?? rest ?? 0);
  }
}

/** Without the last bits that a sum leaves. */
function tidy(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}
