// Puts style and script into the one file that the server embeds: ../page.html.
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const source = (name) => new URL(`src/${name}`, import.meta.url);
const bundled = async (name, options) => {
  const { outputFiles } = await build({
    entryPoints: [source(name).pathname],
    bundle: true,
    minify: true,
    write: false,
    charset: "utf8",
    target: "es2022",
    ...options,
  });
  return outputFiles[0].text.trim();
};

const style = await bundled("style.css", {});
const script = await bundled("main.ts", { format: "esm" });
if (/<\/(script|style)/i.test(script + style)) {
  throw new Error("the script or the style would end its own element");
}
// Of scripts this one alone. The server's header says the rest of what the page may do (routes.rs).
const hash = createHash("sha256").update(script).digest("base64");
const policy = `script-src 'sha256-${hash}'`;
const page = (await readFile(source("index.html"), "utf8"))
  .replace("/*STYLE*/", () => style)
  .replace("/*SCRIPT*/", () => script)
  .replace("<title>", () => `<meta http-equiv="content-security-policy" content="${policy}">\n<title>`);
await writeFile(new URL("../page.html", import.meta.url), page);
console.log(`page.html: ${Buffer.byteLength(page)} bytes`);
