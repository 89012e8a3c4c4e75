// The server's answers, and how they are asked for.

export interface Model {
  model: string;
  architecture: { width: number; layers: number; image_size: number; embedding: number };
  parameters: number;
  vectors: number;
  precision: string;
  kernel: string;
  onnxruntime: string;
  threads: number;
  version: string;
  weights_bytes: number;
}

export interface Task {
  name: string;
  head: boolean;
  classes: string[];
}

export interface Tasks {
  tasks: Task[];
  /** Expressions that the bundle keeps under names. */
  names: string[];
  /** Those of tasks, and of others that images are classified by. */
  heads: string[];
  groups: string[];
  kinds: string[];
}

export interface Score {
  class: string;
  score: number;
  probability: number;
}

export interface Timing {
  decode_ms: number;
  queue_ms: number;
  weights_ms: number;
  run_ms: number;
  total_ms: number;
}

export interface Classified {
  weights: string;
  results: { head: string; images: { scores: Score[] }[] }[];
  timing: Timing;
  cached: boolean;
}

/** What the server refuses, in its words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
    readonly hint?: string,
  ) {
    super(message);
  }
}

let token = "";

/** Sends this with everything that is asked for from now on. */
export function useToken(given: string): void {
  token = given;
}

export function model(): Promise<Model> {
  return ask<Model>("v1/model");
}

export function tasks(): Promise<Tasks> {
  return ask<Tasks>("v1/tasks");
}

/** All classes of these heads for these images, each an image file as a data URL. */
export function classify(weights: string, heads: string[], images: string[], signal: AbortSignal): Promise<Classified> {
  const body = JSON.stringify({ weights, heads, images });
  const headers = { "content-type": "application/json" };
  return ask<Classified>("v1/classify", { method: "POST", body, headers, signal });
}

async function ask<T>(path: string, init: RequestInit = {}): Promise<T> {
  const headers = new Headers(init.headers);
  if (token) {
    headers.set("authorization", `Bearer ${token}`);
  }
  const answer = await fetch(path, { ...init, headers });
  const text = await answer.text();
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refused(answer.status, "internal", text.slice(0, 200) || answer.statusText);
  }
  if (!answer.ok) {
    const { error } = value as { error?: { kind: string; message: string; hint?: string } };
    throw new Refused(answer.status, error?.kind ?? "internal", error?.message ?? answer.statusText, error?.hint);
  }
  return value as T;
}
