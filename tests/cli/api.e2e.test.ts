/** `ggml-rpc api` as a process, with a server of ours behind it and curl before it. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { recitalText } from "ggml-rpc/demo-model"
import { generate } from "selfsigned"
import { ensureModel } from "../models/models.ts"
import { type ChildProcess, runProcess, waitUntil } from "../peers/process.ts"
import { startOurServer } from "../servers.ts"
import { runCli, startCli, temporaryFolder } from "./program.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
let model = ""
beforeAll(async () => {
  model = await ensureModel("demo")
})
afterAll(() => folder[Symbol.dispose]())

interface Api extends ChildProcess {
  readonly url: string
}

const startApi = async (
  flags: ReadonlyArray<string>,
  env: Record<string, string> = {},
): Promise<Api> => {
  const child = startCli(["api", model, "--port", "0", "-c", "1024", "-t", "1", ...flags], { env })
  const url = () => /^listening on (https?:.+)$/m.exec(child.stdout())?.[1]
  await waitUntil(() => url() !== undefined || !child.isRunning(), 40_000)
  if (url() === undefined) {
    await child.stop()
    throw new Error(`api did not come up; it printed:\n${child.stderr()}`)
  }
  return { ...child, url: url()! }
}

const curl = async (...args: ReadonlyArray<string>) => {
  const { stdout, exitCode } = await runProcess(["curl", "--silent", "--show-error", ...args])
  expect(exitCode).toBe(0)
  return stdout
}

describe("a server", () => {
  test("answers over a cluster, by its flags and variables, until it is told to stop", async () => {
    await using lender = await startOurServer()
    const api = await startApi(
      ["--rpc", lender.endpoint, "--alias", "parrot", "-np", "2", "--metrics", "-n", "4"],
      { LLAMA_API_KEY: "secret", LLAMA_ARG_TOP_K: "7" },
    )
    expect(api.stderr()).toContain(lender.endpoint)
    const key = ["-H", "Authorization: Bearer secret"]
    expect(await curl(`${api.url}/v1/models`)).toContain("API key")
    expect(await curl(`${api.url}/`)).toContain("<!doctype html>")
    expect(JSON.parse(await curl(...key, `${api.url}/cluster`))).toMatchObject({
      model: { name: "parrot", layer_count: 8, context_size: 1024 },
      hosts: [{ name: "127.0.0.1", servers: [{ endpoint: lender.endpoint }] }, { name: null }],
    })
    expect(JSON.parse(await curl(...key, `${api.url}/v1/models`)).data).toMatchObject([
      { id: "parrot" },
    ])
    // Without a type of its own, curl says that it sends a form.
    const answer = await curl(...key, `${api.url}/completion`, "-d", '{"prompt": "Hello"}')
    expect(JSON.parse(answer)).toMatchObject({
      content: "You are watching one",
      generation_settings: { top_k: 7, n_predict: 4 },
    })
    const stream =
      '{"messages": [{"role": "user", "content": "Hi"}], "stream": true, "max_tokens": 2}'
    const events = await curl("--no-buffer", ...key, `${api.url}/v1/chat/completions`, "-d", stream)
    expect(events).toContain('"content":" are"')
    expect(events).toEndWith("data: [DONE]\n\n")
    expect(JSON.parse(await curl(...key, `${api.url}/props`)).total_slots).toBe(2)
    expect(await curl(...key, `${api.url}/metrics`)).toContain(
      "llamacpp:tokens_predicted_total 6\n",
    )
    process.kill(api.pid, "SIGTERM")
    expect(await api.exited).toBe(0)
  })

  test("ends when the cluster loses a server, which it tells", async () => {
    const lender = await startOurServer()
    const api = await startApi(["--rpc", lender.endpoint])
    await lender.stop(0)
    const answer = JSON.parse(await curl(`${api.url}/completion`, "-d", '{"prompt": "Hello"}'))
    expect(answer.error).toMatchObject({
      code: 503,
      message: expect.stringContaining(lender.endpoint),
    })
    expect(await api.exited).toBe(1)
    expect(api.stderr()).toContain("Lost the server")
  })

  test("keeps what a slot has computed, and takes it again", async () => {
    const kept = join(folder.path, "slots")
    const api = await startApi(["--slot-save-path", kept, "-np", "2", "--no-webui"])
    expect(await curl(`${api.url}/`)).toContain("start it without --no-webui")
    const post = async (path: string, body: object) =>
      JSON.parse(await curl(`${api.url}${path}`, "-d", JSON.stringify(body)))
    const { tokens_cached } = await post("/completion", {
      prompt: "Hello",
      n_predict: 4,
      id_slot: 0,
    })
    const saved = await post("/slots/0?action=save", { filename: "hello.bin" })
    expect(saved).toMatchObject({ id_slot: 0, filename: "hello.bin", n_saved: tokens_cached - 1 })
    expect(existsSync(join(kept, "hello.bin"))).toBe(true)
    expect(await post("/slots/0?action=erase", {})).toMatchObject({ n_erased: saved.n_saved })
    const restored = await post("/slots/1?action=restore", { filename: "hello.bin" })
    expect(restored).toMatchObject({ id_slot: 1, n_restored: saved.n_saved })
    for (const filename of ["../hello.bin", "/etc/passwd", "..", ""]) {
      const { error } = await post("/slots/0?action=save", { filename })
      expect(error).toMatchObject({ code: 400, message: expect.stringContaining("filename") })
    }
    expect((await post("/slots/9?action=erase", {})).error).toMatchObject({ code: 400 })
    expect((await post("/slots/0?action=dance", {})).error).toMatchObject({ code: 400 })
    await api.stop()
  })

  test("speaks HTTPS, takes keys from a file, and a template of one", async () => {
    const { private: key, cert } = await generate([{ name: "commonName", value: "localhost" }])
    const path = (name: string, text: string): string => {
      writeFileSync(join(folder.path, name), text)
      return join(folder.path, name)
    }
    const api = await startApi([
      ...["--ssl-key-file", path("key.pem", key), "--ssl-cert-file", path("cert.pem", cert)],
      ...["--api-key-file", path("keys", "# two\nfirst\n\nsecond\n")],
      ...["--chat-template-file", path("t.jinja", "{{ messages[0].content }}!")],
    ])
    expect(api.url).toStartWith("https://")
    const options = ["--insecure", "-H", "x-api-key: second"]
    const body = '{"messages": [{"role": "user", "content": "Hi"}]}'
    expect(await curl(...options, `${api.url}/apply-template`, "-d", body)).toBe('{"prompt":"Hi!"}')
    const { choices } = JSON.parse(
      await curl(...options, `${api.url}/v1/chat/completions`, "-d", body),
    )
    expect(choices[0].message.content).toBe(recitalText)
    await api.stop()
  })
})

test("a server that everybody can reach without a key is warned of", async () => {
  const api = await startApi(["--host", "0.0.0.0"])
  expect(api.stderr()).toContain("warning: 0.0.0.0 is more than this machine")
  await api.stop()
})

test.each([
  [["--port", "http"], "--port takes a whole number"],
  [["--api-key-file", "/nowhere"], "--api-key-file: /nowhere cannot be read"],
  [["--ssl-key-file", "/nowhere"], "belong together"],
  [["--chat-template", "none-such"], "There is no built-in chat template"],
  [["--pooling", "magic"], "--pooling takes"],
  [
    ["--slot-save-path", "/proc/nothing"],
    "--slot-save-path: the folder /proc/nothing cannot be made",
  ],
])("what is wrong with %p is told in a sentence", async (flags, message) => {
  const { exitCode, stdout, stderr } = await runCli(["api", model, ...flags])
  expect(exitCode).toBeGreaterThan(0)
  expect(stdout).toBe("")
  expect(stderr.replaceAll(/\s+/g, " ")).toContain(message)
  expect(stderr).not.toContain("    at ")
})

test("a port that is taken is told before anything is loaded", async () => {
  const taken = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() })
  const { exitCode, stderr } = await runCli(["api", model, "--port", String(taken.port)])
  expect(exitCode).toBe(1)
  expect(stderr).toContain(`Cannot listen on 127.0.0.1:${taken.port}`)
  await taken.stop(true)
})
