/** `ggml-rpc chat`, and `run` with models that are talked with: through pipes, and in a real terminal. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { writeGguf } from "@ggml-rpc/gguf"
import { demoModel, recitalText } from "ggml-rpc/demo-model"
import { ensureModel } from "../models/models.ts"
import { ggmlRpc, type OurServer, startOurServer } from "../servers.ts"
import { runCli, temporaryFolder } from "./program.ts"
import { hasTmux, Terminal } from "./Terminal.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
const at = (name: string): string => join(folder.path, name)
/** It has no template: chatml is what it is talked with. */
const plain = at("plain.gguf")
const instruct = at("instruct.gguf")
const thinking = at("thinking.gguf")
const saved = at("saved.json")
let server: OurServer

const template =
  "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
const thinkingTemplate = `${template}{# <think> </think> #}`

const writeModel = (path: string, text: string, chatTemplate?: string): void => {
  const { metadata, tensors } = demoModel(text)
  const added = { type: "string", value: chatTemplate ?? "" } as const
  writeGguf(path, {
    metadata: [
      ...metadata,
      ...(chatTemplate === undefined ? [] : ([["tokenizer.chat_template", added]] as const)),
    ],
    tensors,
  })
}

beforeAll(async () => {
  writeModel(plain, recitalText)
  writeModel(instruct, recitalText, template)
  writeModel(thinking, "<think>\nLet me see.\n</think>\n\nIt is 42.", thinkingTemplate)
  server = await startOurServer()
})
afterAll(async () => {
  await server?.stop()
  folder[Symbol.dispose]()
})

const here = ["-t", "1", "-c", "4096"]
const short = [...here, "-n", "5"]
const fiveTokens = "You are watching one language\n"

interface Saved {
  readonly messages: ReadonlyArray<{ readonly role: string; readonly content: string }>
}
const savedMessages = () => (JSON.parse(readFileSync(saved, "utf8")) as Saved).messages

/** A chat through pipes: each line is said. */
const said = (args: ReadonlyArray<string>, ...lines: ReadonlyArray<string>) =>
  runCli(["chat", ...args], { stdin: lines.map((line) => `${line}\n`).join("") })

describe("through pipes", () => {
  test("each line is a message; answers on stdout, all else on stderr, plainly", async () => {
    const { stdout, stderr, exitCode } = await said(
      [plain, "--rpc", server.endpoint, ...short],
      "Hello",
      "",
      "And again",
    )
    expect(exitCode).toBe(0)
    expect(stdout).toBe(fiveTokens.repeat(2))
    expect(stderr.match(/5 tokens, .+ tokens\/s · context \d+ of 4096/g)).toHaveLength(2)
    expect(stderr).toContain(server.endpoint)
    expect(stderr).not.toContain("\x1b")
  })

  test("--in-prefix and --in-suffix stand in place of a template", async () => {
    // Its text depends on every token of the prompt.
    const model = await ensureModel("tiny")
    const greedy = [...short, "--temp", "0"]
    const affixes = ["--in-prefix", "Q: ", "--in-suffix", "\\nA:"]
    const raw = async (prompt: string): Promise<string> => {
      const { stdout } = await runCli(["run", model, ...greedy, "-no-cnv", "-p", prompt])
      // A chat shows none of these to the terminal.
      return stdout.replaceAll(/[^\P{Cc}\n\t]/gu, "\ufffd")
    }
    const first = await said([model, ...greedy, ...affixes], "one two")
    expect(first).toMatchObject({ exitCode: 0 })
    expect(first.stdout).toBe(await raw("Q: one two\\nA:"))
    expect(first.stdout).not.toBe(await raw("one two"))
    const asRun = await runCli(["run", model, ...greedy, ...affixes, "-st", "-p", "one two"])
    expect(asRun.stdout).toBe(first.stdout)
  })

  test("a first message ends it, and -st is one turn", async () => {
    const first = await said([plain, ...short, "-p", "Hello\\nyou"], "not read")
    expect(first).toMatchObject({ exitCode: 0, stdout: fiveTokens })
    const single = await said([plain, ...short, "-st"], "Hello", "not answered")
    expect(single).toMatchObject({ exitCode: 0, stdout: fiveTokens })
  })

  test("-r ends an answer, and --no-perf tells no figures", async () => {
    const ended = await said([plain, ...here, "-r", "language", "--no-perf"], "Hello", "Again")
    expect(ended.stdout).toBe("You are watching one \nYou are watching one \n")
    expect(ended.stderr).not.toContain("tokens/s")
  })

  test("--prompt-cache is for a text that goes on", async () => {
    const cached = ["run", instruct, "-p", "a", "--prompt-cache", at("prompt.cache")]
    const { exitCode, stderr } = await runCli(cached)
    expect(exitCode).toBe(2)
    expect(stderr).toContain("-no-cnv asks for that")
    expect((await runCli([...cached, "-no-cnv", ...short])).exitCode).toBe(0)
  })

  test("thoughts are no part of the answer, unless they are wanted as they are", async () => {
    const split = await said([thinking, ...here], "What is it?", `/save ${saved}`)
    expect(split.stdout).toBe("It is 42.\n")
    expect(split.stderr).toContain("[thinking]\nLet me see.\n[answer]\n")
    expect(savedMessages()[1]).toEqual({
      role: "assistant",
      content: "It is 42.",
      reasoning_content: "Let me see.",
    } as never)
    const whole = await said([thinking, ...here, "--reasoning-format", "none"], "What is it?")
    expect(whole.stdout).toContain("<think>\nLet me see.\n</think>\n\nIt is 42.")
  })

  test("commands: another answer, a new conversation, system messages, files", async () => {
    const { stdout, stderr, exitCode } = await said(
      [instruct, ...short, "-sys", "Be brief."],
      "one",
      "/regen",
      "/system Be long.",
      "two",
      `/save ${saved}`,
      "/clear",
      "/regen",
      `/load ${saved}`,
      "//three",
      `/save ${saved}`,
      "/nonsense",
      "/help",
      "/quit",
      "not read",
    )
    expect(exitCode).toBe(0)
    expect(stdout).toBe(fiveTokens.repeat(4))
    const answer = { role: "assistant", content: fiveTokens.trimEnd() }
    expect(savedMessages()).toEqual([
      { role: "system", content: "Be long." },
      ...["one", "two", "/three"].flatMap((content) => [{ role: "user", content }, answer]),
    ])
    expect(stderr).toContain("There is no message to answer yet.")
    expect(stderr).toContain("5 messages from")
    expect(stderr).toContain("There is no /nonsense.")
    expect(stderr).toContain("/model NAME")
  })

  test("a file that cannot be read or written is told, and the chat goes on", async () => {
    writeFileSync(at("odd.json"), '{"messages": [{"role": "user"}]}')
    const { stdout, stderr, exitCode } = await said(
      [plain, ...short],
      `/load ${at("none.json")}`,
      `/load ${at("odd.json")}`,
      `/save ${at("no/such/folder.json")}`,
      "Hello",
    )
    expect(exitCode).toBe(0)
    expect(stdout).toBe(fiveTokens)
    expect(stderr).toContain("none.json cannot be read: there is no such file or folder.")
    expect(stderr).toContain('odd.json cannot be read: it has no "messages"')
    expect(stderr).toContain("folder.json cannot be written")
  })

  test("the conversation goes on with another model, where there is one", async () => {
    const { stdout, stderr, exitCode } = await said(
      [plain, ...here],
      "/model",
      `/model ${at("none.gguf")}`,
      `/model ${thinking}`,
      "Hello",
    )
    expect(exitCode).toBe(0)
    expect(stdout).toBe("It is 42.\n")
    expect(stderr).toContain(`The model: ${plain}`)
    expect(stderr).toContain("none.gguf")
  })

  test("a conversation that the context does not hold is told; a message is taken back then", async () => {
    const { stdout, stderr, exitCode } = await said(
      [plain, "-t", "1", "-c", "256", "-n", "5"],
      "x".repeat(300),
      "Hello",
    )
    expect(exitCode).toBe(0)
    expect(stdout).toBe(fiveTokens)
    expect(stderr).toMatch(/would have 3\d\d tokens, and the context holds 256/)
  })
})

describe("run", () => {
  test("talks with a model that has a template, and only with such a one", async () => {
    const talk = await runCli(["run", instruct, ...short, "-p", "Hello"])
    expect(talk).toMatchObject({ exitCode: 0, stdout: fiveTokens })
    expect(talk.stderr).toContain("· context")
    for (const args of [[instruct, "-no-cnv"], [plain]]) {
      const { stderr, stdout } = await runCli(["run", ...args, ...short, "-p", "Hello"])
      expect(stderr).not.toContain("· context")
      expect(stdout).toBe(fiveTokens)
    }
    const asked = await runCli(["run", plain, ...short, "-cnv", "-st", "-p", "Hello"])
    expect(asked.stderr).toContain("· context")
    const json = await runCli(["run", instruct, ...short, "--json", "-p", "Hello"])
    expect(json.stdout).toContain('{"event":"stats"')
  })

  test("--json-schema makes the text JSON of its shape", async () => {
    const schema = JSON.stringify({
      type: "object",
      properties: {
        ok: { type: "boolean" },
        list: { type: "array", maxItems: 2, items: { enum: [1, 2] } },
      },
      required: ["ok", "list"],
    })
    writeFileSync(at("schema.json"), schema)
    for (const flags of [
      ["-j", schema],
      ["--json-schema-file", at("schema.json")],
    ]) {
      const { stdout, exitCode } = await runCli(["run", plain, ...here, "-p", "Hello", ...flags])
      expect(exitCode).toBe(0)
      expect(JSON.parse(stdout)).toEqual({ ok: expect.any(Boolean), list: expect.any(Array) })
    }
  })

  test("a broken schema or template is one paragraph", async () => {
    const failing = async (...args: ReadonlyArray<string>) => {
      const { stderr, exitCode } = await runCli(["run", ...args, ...short, "-p", "Hello"])
      expect(stderr).not.toContain("    at ")
      return { exitCode, stderr }
    }
    const type = await failing(plain, "-j", '{"properties": {"a": {"type": "int"}}}')
    expect(type.exitCode).toBe(2)
    expect(type.stderr).toContain("$.properties.a.type")
    expect((await failing(plain, "-j", "{")).stderr).toContain("--json-schema is no JSON")
    const both = await failing(plain, "-j", "{}", "--grammar", 'root ::= "a"')
    expect(both).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("give one") })
    const name = await failing(instruct, "--chat-template", "lama3")
    expect(name).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("llama3") })
    writeFileSync(at("broken.jinja"), "{% for %}")
    const broken = await failing(instruct, "--chat-template-file", at("broken.jinja"))
    expect(broken).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("cannot be read") })
    const refused = await failing(instruct, "--chat-template", "{{ raise_exception('not today') }}")
    expect(refused.stderr).toContain("refuses these messages: not today")
  })
})

describe.skipIf(!hasTmux)("in a terminal", () => {
  const state = at("state")
  const start = (args: ReadonlyArray<string>, columns = 60, env = {}): Terminal =>
    new Terminal([...ggmlRpc, "chat", ...args].map((word) => `'${word}'`).join(" "), {
      ...{ columns, rows: 24 },
      env: { XDG_STATE_HOME: state, XDG_CONFIG_HOME: "/dev/null", ...env },
    })
  const send = (terminal: Terminal, text: string): void => {
    terminal.type(text)
    terminal.press("Enter")
  }
  const ready = "/help lists what can be said besides messages."
  const prompts = (terminal: Terminal): number => terminal.text().match(/^> /gm)?.length ?? 0

  test("wide characters and emoji can be typed, mended and come back with the arrow keys", async () => {
    const history = join(state, "ggml-rpc", "chat_history")
    {
      using terminal = start([plain, ...short])
      await terminal.waitFor(ready)
      terminal.type("你好x世界 👩‍👩‍👧 é🙂!")
      terminal.press("Home", "Right", "Right", "DC", "End", "BSpace", "Enter")
      await terminal.waitFor("tokens/s")
      send(terminal, `/save ${saved}`)
      await terminal.waitFor("2 messages")
      expect(savedMessages()[0]!.content).toBe("你好世界 👩‍👩‍👧 é🙂")
      expect(terminal.text()).toContain("> 你好世界 👩‍👩‍👧 é🙂\n")
      terminal.press("C-d")
      await terminal.waitFor("exit 0")
    }
    expect(statSync(history).mode & 0o777).toBe(0o600)
    using again = start([plain, ...short])
    await again.waitFor(ready)
    again.press("Up", "Up")
    await again.waitFor("> 你好世界 👩‍👩‍👧 é🙂")
    again.press("Enter")
    await again.waitFor("tokens/s")
  })

  test("200 pasted lines are one message", async () => {
    const lines = Array.from({ length: 200 }, (_, index) => `${index}: a	b "c" ä`).join("\n")
    using terminal = start([plain, ...short], 100)
    await terminal.waitFor(ready)
    terminal.type("Look: ")
    terminal.paste(`${lines}\n`)
    await terminal.waitFor("> Look: [pasted 1: 200 lines]")
    terminal.type(" and \\")
    terminal.press("Enter")
    await terminal.waitFor("…")
    terminal.paste("one line")
    terminal.press("Enter")
    await terminal.waitFor("tokens/s")
    send(terminal, `/save ${saved}`)
    await terminal.waitFor("2 messages in")
    expect(savedMessages()[0]!.content).toBe(`Look: ${lines}\n and \none line`)
  })

  test("Ctrl-C stops an answer, then empties a line, then leaves; the terminal is as it was", async () => {
    using terminal = start([plain, ...here, "--ignore-eos"])
    await terminal.waitFor(ready)
    send(terminal, "Hello")
    await terminal.waitFor("You are watching")
    // What is typed meanwhile is for the next line.
    terminal.type("later")
    terminal.press("C-c")
    await terminal.waitFor(/· stopped\n> later/)
    terminal.press("C-c")
    await terminal.waitFor(/\n>$/)
    terminal.press("C-c")
    await terminal.waitFor("exit 0")
    await terminal.waitFor(/[^-]icanon/)
    expect(terminal.text()).toMatch(/[^-]echo /)
  })

  test("a terminal that is resized in an answer shows it whole, and no prompt within", async () => {
    using terminal = start([plain, ...here, "--ignore-eos", "-n", "1500"])
    await terminal.waitFor(ready)
    send(terminal, "Hello")
    await terminal.waitFor("You are watching")
    terminal.resize(40, 20)
    terminal.resize(90, 30)
    await terminal.waitFor("stopped after as many tokens")
    await terminal.waitFor(/\n>$/)
    expect(prompts(terminal)).toBe(1)
    expect(terminal.text()).toContain(recitalText.split("\n")[0]!)
    send(terminal, "/clear")
    await terminal.waitFor("A new conversation begins.")
  })

  test("thoughts are dimmed; without colours words say it, and all fits 60 columns", async () => {
    {
      using terminal = start([thinking, ...here, "-p", "What is it?"])
      await terminal.waitFor("> What is it?")
      await terminal.waitFor(/It is 42\.\n[\s\S]+tokens\/s/)
      expect(terminal.styled()).toContain("\x1b[2mLet me see.")
      expect(terminal.text()).toContain("Let me see.\n\nIt is 42.\n")
    }
    using terminal = start([thinking, ...here], 60, { NO_COLOR: "1" })
    await terminal.waitFor(ready)
    send(terminal, "What is it?")
    await terminal.waitFor(/\[answer\]\nIt is 42\.\n[\s\S]+tokens\/s/)
    send(terminal, "/help")
    await terminal.waitFor("/quit")
    expect(terminal.styled()).not.toContain("\x1b[2m")
    const help = terminal
      .text()
      .split("\n")
      .filter((line) => line.startsWith("/"))
    expect(help.filter((line) => line.length > 60)).toEqual([])
  })

  test("a server that dies ends the chat with what happened", async () => {
    const other = await startOurServer()
    using terminal = start([
      plain,
      ...here,
      "--ignore-eos",
      "--rpc",
      other.endpoint,
      "-dev",
      "none",
    ])
    await terminal.waitFor(ready)
    send(terminal, "Hello")
    await terminal.waitFor("You are watching")
    await other.stop()
    await terminal.waitFor("exit 1")
    expect(terminal.text()).toContain("error:")
    await terminal.waitFor(/[^-]icanon/)
  })

  test("Ctrl-C twice leaves an answer that a hanging server keeps", async () => {
    await using other = await startOurServer()
    using terminal = start([
      ...[plain, ...here, "--ignore-eos", "--rpc", other.endpoint, "-dev", "none"],
    ])
    await terminal.waitFor(ready)
    send(terminal, "Hello")
    await terminal.waitFor("You are watching")
    const pids = [other.pid, ...other.sessionPids()]
    for (const pid of pids) process.kill(pid, "SIGSTOP")
    try {
      terminal.press("C-c")
      terminal.press("C-c")
      // Where the engine stops in time, the second one is for the empty line.
      await terminal.waitFor(/exit (0|130)/)
      await terminal.waitFor(/[^-]icanon/)
    } finally {
      for (const pid of pids) process.kill(pid, "SIGCONT")
    }
  })
})
