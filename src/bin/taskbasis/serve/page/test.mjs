// The page in a real browser, beside what the program computes for the same expression and image.
//
//   node test.mjs TASKBASIS MODEL TASK [SCREENSHOT.png]
//
// The image is the built-in one of the task, which is a task of MODEL with a head.
//
// Needs Chromium (CHROMIUM, else chromium or chromium-browser on PATH). Starts `TASKBASIS serve MODEL` itself, or uses
// the address in SERVER.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [program, model, task, screenshot] = process.argv.slice(2);
assert.ok(task, "usage: node test.mjs TASKBASIS MODEL TASK [SCREENSHOT.png]");
const LARGEST_PAGE = 200_000;

const samples = JSON.parse(readFileSync(new URL("src/samples.json", import.meta.url)));
const folder = mkdtempSync(join(tmpdir(), "taskbasis-page-"));
const image = join(folder, "image.png");
const [, encoded] = samples.find((sample) => sample.task === task).image.split(",");
writeFileSync(image, Buffer.from(encoded, "base64"));

const server = process.env.SERVER ? undefined : spawn(program, ["serve", model, "--bind", "127.0.0.1:0"]);
const browser = await chromium.launch({ executablePath: findBrowser(), args: ["--no-sandbox"] });
try {
  const address = process.env.SERVER ?? (await announced(server));
  for (const colorScheme of ["light", "dark"]) {
    await looks(address, colorScheme);
  }
  await works(address);
  console.log("page: passed");
} finally {
  await browser.close();
  server?.kill();
  rmSync(folder, { recursive: true });
}

function findBrowser() {
  const which = (name) => execFileSync("sh", ["-c", `command -v ${name} || true`], { encoding: "utf8" }).trim();
  return process.env.CHROMIUM || which("chromium") || which("chromium-browser");
}

/** The address that the server prints when it listens. */
function announced(child) {
  return new Promise((resolve, reject) => {
    let said = "";
    const listen = (chunk) => {
      said += chunk;
      const found = /http:\/\/[\d.]+:\d+/.exec(said);
      if (found) {
        resolve(found[0]);
      }
    };
    child.stdout.on("data", listen);
    child.stderr.on("data", listen);
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}: ${said}`)));
  });
}

/** What the program makes of the image: the probability of every class. */
function computed(expression) {
  const args = ["classify", "--basis", model, "--task", task, "--weights", expression, "--json", image];
  const classes = JSON.parse(readFileSync(new URL("classes.json", pathToFileURL(model))))[task];
  args.push("--top", String(classes.length));
  const { images } = JSON.parse(execFileSync(program, args, { encoding: "utf8" }));
  return new Map(images[0].top.map((score) => [score.class, score.probability]));
}

/** A page whose console, requests and errors are watched. */
async function open(address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 1000 }, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(address) && !/^(data|blob):/.test(request.url())) {
      complaints.push(`asks for ${request.url()}`);
    }
  });
  const answer = await page.goto(address);
  assert.equal(answer.status(), 200);
  assert.ok((await answer.body()).length < LARGEST_PAGE, "the page is too large");
  await page.waitForSelector(".bars");
  return { page, complaints };
}

/** No serious finding of axe-core, in this scheme. */
async function looks(address, colorScheme) {
  const { page, complaints } = await open(address, { colorScheme, reducedMotion: "reduce", bypassCSP: true });
  await page.locator("summary").first().click();
  await page.getByRole("button", { name: "Keep this expression beside" }).click();
  await page.getByRole("slider", { name: `λ of ${task}`, exact: true }).press("Home");
  await settled(page);
  if (screenshot) {
    const name = colorScheme === "light" ? screenshot : screenshot.replace(/\.png$/, `-${colorScheme}.png`);
    await page.screenshot({ path: name, fullPage: true });
  }
  await page.addScriptTag({ path: createRequire(import.meta.url).resolve("axe-core") });
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  assert.deepEqual(serious.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), []);
  assert.deepEqual(complaints, []);
  await page.context().close();
}

/** Waits until what is shown is of what is asked for. */
async function settled(page) {
  await page.locator('#bars[aria-busy="false"]').waitFor({ state: "attached" });
}

/** Waits until what was typed is looked at, which is when typing rests. */
async function typed(page) {
  await page.waitForTimeout(400);
  await settled(page);
}

/** The bars of the first column, as probabilities by class. */
async function shown(page, head) {
  await settled(page);
  const rows = await page.locator(".bars", { has: page.locator("caption", { hasText: head }) }).locator("tbody tr").all();
  const read = async (row) => [
    await row.locator("th").innerText(),
    Number((await row.locator("td .value").first().innerText()).replace("%", "")) / 100,
  ];
  return new Map(await Promise.all(rows.map(read)));
}

function agree(got, want, what) {
  assert.equal(got.size, want.size, what);
  for (const [name, probability] of want) {
    assert.ok(Math.abs(got.get(name) - probability) < 0.0011, `${what}: ${name} is ${got.get(name)}, not ${probability}`);
  }
}

async function works(address) {
  const { page, complaints } = await open(address);
  const expression = page.getByLabel("Task expression");

  // An image of one's own, in place of the built-in ones; one head.
  await page.locator("#files").setInputFiles(image);
  for (const box of await page.locator("#heads input").all()) {
    await box.setChecked((await box.inputValue()) === task);
  }
  await page.getByRole("button", { name: "All to 0" }).click();
  assert.equal(await expression.inputValue(), "base");
  agree(await shown(page, task), computed("base"), "base");

  // A slider by the keyboard: the text follows, and the classes are those of the text.
  const slider = page.getByRole("slider", { name: `λ of ${task}`, exact: true });
  await slider.press("End");
  assert.equal(await expression.inputValue(), task);
  const own = computed(task);
  agree(await shown(page, task), own, task);
  assert.notEqual(best(own), best(computed("base")), "the image tells nothing: both have the same class");
  assert.match(await page.locator("#best").innerText(), new RegExp(`${task}: ${best(own)}`));
  assert.match(await page.locator("#timing").innerText(), /weights (cached|rebuilt in [\d.]+ ms), run [\d.]+ ms/);
  for (let press = 0; press < 30; press++) {
    await slider.press("ArrowLeft");
  }
  assert.equal(await expression.inputValue(), `${task}@0.7`);
  agree(await shown(page, task), computed(`${task}@0.7`), "a moved slider");

  // By groups, and the text back into sliders.
  await page.locator(".task", { hasText: task }).locator("summary").click();
  await page.getByRole("slider", { name: new RegExp(`λ of ${task}, blocks`) }).first().press("Home");
  const grouped = await expression.inputValue();
  assert.match(grouped, new RegExp(`^${task}@\\{blocks\\.\\S+: -1, \\*: 0\\.7\\}$`));
  agree(await shown(page, task), computed(grouped), grouped);
  await expression.fill(`${task}@0.25`);
  await typed(page);
  assert.equal(await slider.inputValue(), "0.25");
  agree(await shown(page, task), computed(`${task}@0.25`), "typed");

  // More than sliders have is computed too, and said; what is refused is told in the server's words.
  await expression.fill("all@0.3");
  await typed(page);
  agree(await shown(page, task), computed("all@0.3"), "all@0.3");
  assert.ok(await page.locator("#beyond").isVisible());
  assert.ok(await slider.isDisabled());
  await expression.fill("Nonesuch@0.3");
  await typed(page);
  assert.match(await page.locator("#message.error").innerText(), /Nonesuch/);
  await page.getByRole("button", { name: "All to 0" }).click();

  // Two expressions beside each other.
  await page.getByRole("button", { name: "Keep this expression beside" }).click();
  await slider.press("End");
  await settled(page);
  const titles = await page.locator(".bars thead th").allInnerTexts();
  assert.deepEqual(titles, ["class", "now", "base"]);
  agree(await shown(page, task), own, "beside another");

  await page.getByRole("button", { name: "Copy as CLI" }).click();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), new RegExp(`^taskbasis classify .*--weights ${task}`));
  const heat = await page.locator("#heat-map tbody tr", { hasText: task }).locator("td").allInnerTexts();
  assert.ok(heat.length > 2 && heat.every((value) => value === "1"), String(heat));

  // The one refusal that was asked for is the browser's own line for an answer of 4xx.
  assert.deepEqual(complaints.filter((text) => !/status of 4\d\d/.test(text)), []);
  await page.context().close();
}

function best(probabilities) {
  return [...probabilities].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
}
