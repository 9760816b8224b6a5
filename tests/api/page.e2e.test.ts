/** The page in a browser, over a model on two servers. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import axe from "axe-core"
import { recitalText } from "ggml-rpc/demo-model"
import type { Browser, BrowserContextOptions, Page } from "playwright-core"
import { ensureModel } from "../models/models.ts"
import { waitUntil } from "../peers/process.ts"
import { type OurServer, startOurServer } from "../servers.ts"
import { ask, askJson, type StartedApi, startApi } from "./apiServer.ts"
import { launchBrowser } from "./browser.ts"
import { answer, chatTemplate, only, thinking, thoughts } from "./forced.ts"

setDefaultTimeout(120_000)

const STEP_MS = 30_000
const desktop = { viewport: { width: 1280, height: 800 } } as const
const phone = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true } as const

let browser: Browser
let path = ""
let servers: ReadonlyArray<OurServer> = []
const started: Array<StartedApi> = []

const start = async (setup: Parameters<typeof startApi>[1] = {}): Promise<StartedApi> => {
  const endpoints = servers.map(({ endpoint }) => endpoint!)
  const api = await startApi(path, { endpoints, chatTemplate, ...setup })
  started.push(api)
  return api
}

let api: StartedApi
beforeAll(async () => {
  path = await ensureModel("demo")
  servers = await Promise.all([startOurServer(), startOurServer()])
  browser = await launchBrowser()
  api = await start({ plan: { slots: 2, contextSize: 4096 }, defaults: { temp: 0 } })
})
afterAll(async () => {
  await browser?.close()
  await Promise.all(started.map(({ stop }) => stop()))
  await Promise.all(servers.map((server) => server.stop()))
})

/** What a browser complains of: errors of scripts, what the policy forbids. */
const complaints: Array<string> = []

const open = async (url: string, options: BrowserContextOptions = desktop): Promise<Page> => {
  const context = await browser.newContext(options)
  context.setDefaultTimeout(STEP_MS)
  const page = await context.newPage()
  page.on("pageerror", (error) => complaints.push(String(error)))
  page.on("console", (message) => {
    // Of an answer whose status is an error's.
    if (message.type() === "error" && !message.text().includes("Failed to load resource")) {
      complaints.push(message.text())
    }
  })
  await page.goto(url)
  return page
}

const field = (page: Page) => page.getByRole("textbox", { name: "Message", exact: true })

const say = async (page: Page, text: string): Promise<void> => {
  await field(page).fill(text)
  await page.keyboard.press("Enter")
}

const answers = (page: Page) => page.locator(".assistant:not(.running) > .markdown")
/** Markdown makes spaces of the recital's line breaks. */
const words = (text: string): string => text.replace(/\s+/g, " ").trim()

const textOf = async (page: Page, selector: string): Promise<string> =>
  (await page.locator(selector).textContent()) ?? ""

/** Once it is there, whole or stopped. */
const readAnswer = async (page: Page): Promise<string> => {
  await answers(page).first().waitFor()
  return words((await answers(page).first().locator("> *").allTextContents()).join(" "))
}

/** How much wider the page is than the window, in pixels. */
const overflow = "document.documentElement.scrollWidth - innerWidth"

const count = (page: Page, selector: string): Promise<number> => page.locator(selector).count()

describe("the page", () => {
  test("is one file of less than 200 KB, which asks nobody else", async () => {
    const { status, headers, body } = await ask(`${api.url}/`)
    expect(status).toBe(200)
    expect(headers.get("content-type")).toBe("text/html; charset=utf-8")
    expect(Buffer.byteLength(body)).toBeLessThan(200 * 1024)
    expect(body).not.toMatch(/(?:src|href)="(?!data:|#)/)
    const policy = headers.get("content-security-policy")!
    expect(policy).toContain("default-src 'none'")
    expect(policy).not.toContain("unsafe")
  })

  test("is not there with hasPage off", async () => {
    const { url } = await start({ hasPage: false, endpoints: [] })
    const { status, body } = await askJson(`${url}/`)
    expect(status).toBe(404)
    expect(body.error.message).toContain("--no-webui")
  })
})

describe("a chat", () => {
  test("streams its answer, is there after a reload, and can be cleared", async () => {
    const page = await open(api.url)
    await say(page, "Hello")
    expect(await readAnswer(page)).toBe(words(recitalText))
    expect(await textOf(page, ".assistant .foot")).toMatch(/\d+ tokens, [\d.]+ tokens\/s/)
    await page.reload()
    expect(await readAnswer(page)).toBe(words(recitalText))
    expect(await textOf(page, ".bubble")).toBe("Hello")
    await page.getByRole("button", { name: "New chat" }).click()
    expect(await count(page, ".message")).toBe(0)
    await page.reload()
    expect(await count(page, ".message")).toBe(0)
  })

  test("is regenerated, and its last message edited", async () => {
    const page = await open(api.url)
    await say(page, "Hello")
    await readAnswer(page)
    await page.getByRole("button", { name: "Regenerate" }).click()
    expect(await readAnswer(page)).toBe(words(recitalText))
    await page.getByRole("button", { name: "Edit" }).click()
    const message = field(page)
    expect(await message.inputValue()).toBe("Hello")
    await page.keyboard.press("Escape")
    expect(await message.inputValue()).toBe("")
    await page.getByRole("button", { name: "Edit" }).click()
    await say(page, "Hello again")
    await page.locator(".bubble", { hasText: "again" }).waitFor()
    expect(await readAnswer(page)).toBe(words(recitalText))
    expect(await count(page, ".message")).toBe(2)
  })

  test("takes the system prompt and the temperature of the settings", async () => {
    const page = await open(api.url)
    await page.getByRole("button", { name: "Settings" }).click()
    await page.getByLabel("System prompt").fill("Be brief.")
    await page.getByLabel("Temperature").fill("0.5")
    await page.getByRole("button", { name: "Done" }).click()
    const [request] = await Promise.all([
      page.waitForRequest("**/v1/chat/completions"),
      say(page, "Hello"),
    ])
    expect(request.postDataJSON()).toMatchObject({
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hello" },
      ],
      temperature: 0.5,
      stream: true,
    })
    await readAnswer(page)
  })

  test("folds what the model thinks", async () => {
    const { url } = await start({ defaults: { grammar: only(thinking) } })
    const page = await open(url)
    await say(page, "What is the weather in Rome?")
    expect(await readAnswer(page)).toBe(answer)
    const thought = page.getByText(thoughts)
    expect(await thought.isVisible()).toBe(false)
    await page.getByText(/^Thought for/).click()
    expect(await thought.isVisible()).toBe(true)
  })

  test("is stopped by Escape, there and on the server; what came stays", async () => {
    const endless = { grammar: "root ::= [a-z] root" }
    const { url } = await start({ defaults: endless, plan: { contextSize: 32_768 } })
    const page = await open(url)
    await say(page, "Hello")
    await page.locator(".assistant.running > .markdown > p").waitFor()
    await page.keyboard.press("Escape")
    expect(await readAnswer(page)).toMatch(/^[a-z]+$/)
    expect(await textOf(page, ".assistant .foot")).toContain("stopped")
    const isIdle = async () => (await askJson(`${url}/cluster`)).body.slots[0].state === "idle"
    expect(await waitUntil(isIdle, STEP_MS)).toBe(true)
  })

  test("shows what a model writes as text, never as markup", async () => {
    const evil = "<img src=x onerror=alert(1)> **bold** [x](javascript:alert(1)) `<b>`"
    const { url } = await start({ defaults: { grammar: only(evil) } })
    const page = await open(url)
    await say(page, "Hello")
    expect(await readAnswer(page)).toBe(
      "<img src=x onerror=alert(1)> bold [x](javascript:alert(1)) <b>",
    )
    expect(await count(page, ".assistant :is(img, a)")).toBe(0)
    expect(await textOf(page, ".assistant strong")).toBe("bold")
  })

  test("says what the server refuses, and asks it again", async () => {
    const page = await open(api.url)
    await page.route("**/v1/chat/completions", (route) =>
      route.fulfill({ status: 429, json: { error: { message: "Come back later." } } }),
    )
    await say(page, "Hello")
    await page.getByText("Come back later.").first().waitFor()
    await page.unroute("**/v1/chat/completions")
    await page.getByRole("button", { name: "Try again" }).click()
    expect(await readAnswer(page)).toBe(words(recitalText))
  })
})

test("an answer that breaks off keeps what came of it, and says so", async () => {
  const page = await open(api.url)
  const begun = 'data: {"choices": [{"delta": {"content": "You are"}}]}\n\n'
  const failed = 'data: {"error": {"code": 500, "message": "The server is lost."}}\n\n'
  for (const [body, told] of [
    [begun, "The connection broke"],
    [begun + failed, "The server is lost."],
  ] as const) {
    await page.route(
      "**/v1/chat/completions",
      (route) => route.fulfill({ contentType: "text/event-stream", body }),
      { times: 1 },
    )
    await say(page, "Hello")
    await page.locator(".assistant .error", { hasText: told }).waitFor()
    expect(await readAnswer(page)).toBe("You are")
    await page.getByRole("button", { name: "New chat" }).click()
  }
})

describe("a key", () => {
  test("is asked for where the server wants one, and again when it is wrong", async () => {
    const { url } = await start({ apiKeys: ["secret"] })
    const page = await open(url)
    await page.getByLabel("Key", { exact: true }).fill("guess")
    await page.keyboard.press("Enter")
    await page.getByText("This is not a key of this server's.").waitFor()
    await page.getByLabel("Key", { exact: true }).fill("secret")
    await page.keyboard.press("Enter")
    await page.getByRole("heading", { name: "demo" }).waitFor()
    await say(page, "Hello")
    expect(await readAnswer(page)).toBe(words(recitalText))
    await page.reload()
    await page.getByRole("heading", { name: "demo" }).waitFor()
    expect(await page.locator("#key-dialog").isVisible()).toBe(false)
    expect(await page.evaluate("JSON.stringify(localStorage)")).not.toContain("secret")
  })
})

describe("the cluster", () => {
  test("shows hosts, devices with their layers and memory, and slots", async () => {
    const page = await open(api.url)
    const cluster = page.getByRole("region", { name: "Cluster", exact: true })
    const host = cluster.getByRole("region", { name: "127.0.0.1" })
    for (const { endpoint } of servers) await host.getByText(`${endpoint} · ggml-rpc`).waitFor()
    // It looks again every few seconds.
    await host
      .getByText(/B\/s out, .+B\/s in/)
      .first()
      .waitFor()
    const layers = await cluster.getByRole("img", { name: /^layers? / }).getAttribute("aria-label")
    expect(layers).toMatch(/^layers? 0\S* on RPC0; layers? \S+, output on RPC1; input on CPU$/)
    expect(await host.getByRole("img", { name: /^Memory: weights .*free of/ }).count()).toBe(2)
    await cluster.getByRole("region", { name: "This server's host" }).getByText("CPU").waitFor()
    expect(await cluster.getByText(/^Slot \d idle/).count()).toBe(2)
  })

  test("is looked at again when the model is not there yet, or the server silent", async () => {
    const page = await open(api.url)
    await page.route("**/cluster", (route) => route.abort(), { times: 1 })
    await page.reload()
    await page.getByText("The server does not answer").waitFor()
    const body = { error: { message: "Loading model" } }
    await page.route("**/cluster", (route) => route.fulfill({ status: 503, json: body }), {
      times: 1,
    })
    await page.getByText("Loading model").waitFor()
    await page.getByRole("heading", { name: "demo" }).waitFor()
    await page.getByText("Slot 0").waitFor()
  })

  test("shows tokens a second while there are any", async () => {
    const page = await open(api.url)
    await say(page, "Hello")
    await readAnswer(page)
    const isCounted = async () => Number(await textOf(page, "#cluster .facts dd >> nth=0")) > 0
    expect(await waitUntil(isCounted, STEP_MS)).toBe(true)
  })
})

/** All that Markdown has, behind a thought. */
const everyMark = `<think>\nHm: *so*.\n</think>\n\n# Title\n\n1. one\n   - inner\n\n\`\`\`ts\nlet ${"long".repeat(40)} = 1\n\`\`\`\n
| a | b |\n|---|---|\n| \`1\` | [page](https://page.example) |\n\n> a quote`

describe("everybody", () => {
  test("can do without a mouse", async () => {
    const page = await open(api.url)
    // The message has the focus from the beginning.
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await page.keyboard.press("Enter")
    await readAnswer(page)
    expect(await textOf(page, ".bubble")).toBe("one\ntwo")
    const reached = new Set<string>()
    for (let presses = 0; presses < 20; presses += 1) {
      await page.keyboard.press("Tab")
      reached.add(String(await page.evaluate("document.activeElement.innerText")).trim())
    }
    for (const name of ["New chat", "Settings", "Cluster", "Edit", "Copy", "Regenerate"]) {
      expect([...reached]).toContain(name)
    }
    await page.getByRole("button", { name: "Settings" }).focus()
    await page.keyboard.press("Enter")
    await page.getByRole("dialog", { name: "Settings" }).waitFor()
    await page.keyboard.press("Escape")
    await page.getByRole("dialog", { name: "Settings" }).waitFor({ state: "hidden" })
  })

  test("hears that an answer is there", async () => {
    const page = await open(api.url)
    await say(page, "Hello")
    await readAnswer(page)
    expect(words(await textOf(page, "[role=status]"))).toBe(words(`The model: ${recitalText}`))
  })

  test("can use it on a phone", async () => {
    const page = await open(api.url, phone)
    await say(page, "Hello")
    await readAnswer(page)
    expect(await page.evaluate(overflow)).toBeLessThanOrEqual(0)
    await page.getByRole("button", { name: "Cluster" }).click()
    await page.getByText("Slot 0").waitFor()
    expect(await page.evaluate(overflow)).toBeLessThanOrEqual(0)
    expect(await field(page).isVisible()).toBe(false)
  })

  test.each(["light", "dark"] as const)(
    "can read it: axe finds nothing in %s",
    async (colorScheme) => {
      const { url } = await start({ defaults: { grammar: only(everyMark) } })
      for (const size of [desktop, phone]) {
        // axe is a script of another's, which the page's policy forbids.
        const page = await open(url, { ...size, colorScheme, bypassCSP: true })
        await say(page, "Hello")
        expect(await readAnswer(page)).toContain("a quote")
        await page.getByText(/^Thought for/).click()
        expect(await count(page, ".assistant :is(h4, ol ul, pre, th, a, blockquote)")).toBe(7)
        expect(await page.evaluate(overflow)).toBeLessThanOrEqual(0)
        await page.evaluate(axe.source)
        const violations = () =>
          page.evaluate(
            "axe.run().then((found) => found.violations.map(({ id, nodes }) => [id, ...nodes.map(({ html }) => html)]))",
          )
        expect(await violations()).toEqual([])
        await page.getByRole("button", { name: "Settings" }).click()
        expect(await violations()).toEqual([])
        await page.keyboard.press("Escape")
        if (size === desktop) continue
        await page.getByRole("button", { name: "Cluster" }).click()
        await page.getByText("Slot 0").waitFor()
        expect(await violations()).toEqual([])
      }
    },
  )
})

test("the browser had nothing to complain of", () => {
  expect(complaints).toEqual([])
})
