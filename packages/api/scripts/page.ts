/**
 * Makes the page of its sources in `page/`: one file, in which script and style stand, so that a server gives it out by
 * itself. Within this repository that is done when it is asked for; bundles and the published package hold it made.
 */
import { createHash } from "node:crypto"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import type { BunPlugin } from "bun"
import type { Page } from "../src/own/pageSource.ts"

const folder = join(import.meta.dir, "..", "page")

/** Absolute paths of what the page is made of. */
export const pageInputs = (): ReadonlyArray<string> =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(html|css|ts)$/.test(name) && !name.endsWith(".test.ts"))
    .sort()
    .map((name) => join(folder, name))

const bundled = async (name: string): Promise<string> => {
  const { outputs } = await Bun.build({
    entrypoints: [join(folder, name)],
    target: "browser",
    minify: true,
  })
  return (await outputs[0]!.text()).trim()
}

const hashOf = (text: string): string =>
  `sha256-${createHash("sha256").update(text).digest("base64")}`

/** @throws {AggregateError} when a source does not compile */
export const buildPage = async (): Promise<Page> => {
  const [style, script] = await Promise.all([bundled("page.css"), bundled("main.ts")])
  // By functions: in a text, `$&` would mean something.
  const html = readFileSync(join(folder, "index.html"), "utf8")
    .replace(/<link rel="stylesheet"[^>]*>/, () => `<style>${style}</style>`)
    .replace(/<script[^>]*><\/script>/, () => `<script type="module">${script}</script>`)
  return { html, scriptHash: hashOf(script), styleHash: hashOf(style) }
}

/** What stands for `src/own/pageSource.ts` where the page has been made. */
export const pageModule = async (): Promise<string> =>
  `const page = ${JSON.stringify(await buildPage())}\nexport const loadPage = async () => page\n`

/** Has a bundle hold the page. */
export const pagePlugin = async (): Promise<BunPlugin> => {
  const contents = await pageModule()
  return {
    name: "page",
    setup: (build) => {
      build.onLoad({ filter: /[\\/]api[\\/]src[\\/]own[\\/]pageSource\.ts$/ }, () => ({
        contents,
        loader: "js",
      }))
    },
  }
}
