import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { launchdAgent, systemdUnit } from "./description.ts"
import { serviceManager } from "./place.ts"

setDefaultTimeout(60_000)

let home = ""
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "ggml-rpc-service-"))
})
afterEach(() => rmSync(home, { recursive: true }))

const unitPath = (): string => join(home, ".config", "systemd", "user", "ggml-rpc.service")

/** A `systemctl` that notes how it is called. */
const pathWithSystemctl = (script = ""): string => {
  const bin = join(home, "bin")
  mkdirSync(bin, { recursive: true })
  const text = `#!/bin/sh\necho "$@" >> ${join(home, "calls")}\n${script}\n`
  writeFileSync(join(bin, "systemctl"), text, { mode: 0o755 })
  return `${bin}:/usr/bin:/bin`
}

const calls = (): ReadonlyArray<string> =>
  existsSync(join(home, "calls"))
    ? readFileSync(join(home, "calls"), "utf8").trim().split("\n")
    : []

const run = async (args: ReadonlyArray<string>, PATH: string) => {
  const main = join(import.meta.dir, "..", "main.ts")
  const child = Bun.spawn([process.execPath, main, "service", ...args], {
    cwd: home,
    env: { HOME: home, PATH },
    stdio: ["ignore", "pipe", "pipe"],
  })
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()])
  return { exitCode: await child.exited, stdout, stderr }
}

const odd = ["/opt/my bun", "a%h", 'say "hi"', "back\\slash", "$HOME", "semi;colon"]

describe.skipIf(process.platform !== "linux")("a systemd unit", () => {
  test.skipIf(Bun.which("systemd-analyze") === null)(
    "passes systemd-analyze verify, whatever the words are",
    () => {
      for (const words of [
        [process.execPath, "serve", "--cache"],
        [process.execPath, ...odd],
      ]) {
        const path = join(home, "ggml-rpc.service")
        writeFileSync(path, systemdUnit({ words, folder: home }))
        const told = Bun.spawnSync(["systemd-analyze", "--user", "verify", path], {
          env: { ...process.env, HOME: home, XDG_RUNTIME_DIR: home },
        })
        expect([told.exitCode, told.stderr.toString()]).toEqual([0, ""])
      }
    },
  )

  test("quotes words for ExecStart", () => {
    const unit = systemdUnit({ words: odd, folder: "/a b%" })
    expect(unit).toContain(
      String.raw`ExecStart="/opt/my bun" "a%%h" "say \"hi\"" "back\\slash" "$$HOME" "semi;colon"`,
    )
    expect(unit).toContain("WorkingDirectory=/a b%%\n")
  })

  test("is shown, and written with --yes alone", async () => {
    const PATH = pathWithSystemctl()
    const flags = ["-H", "127.0.0.1", "-p", "50099", "--cache"]
    const shown = await run(["install", ...flags], PATH)
    expect(shown.exitCode).toBe(0)
    expect(shown.stdout).toContain(`"serve" "--host" "127.0.0.1" "--port" "50099" "--cache"\n`)
    expect(shown.stdout).toContain(`WorkingDirectory=${home}\n`)
    expect(shown.stderr).toContain("Nothing was written")
    expect([existsSync(unitPath()), calls()]).toEqual([false, []])

    const installed = await run(["install", "--yes", ...flags], PATH)
    expect(installed.exitCode).toBe(0)
    expect(readFileSync(unitPath(), "utf8")).toBe(shown.stdout)
    expect(calls()).toEqual(["--user daemon-reload", "--user enable --now ggml-rpc.service"])

    const removed = await run(["remove"], PATH)
    expect([removed.exitCode, existsSync(unitPath())]).toEqual([0, false])
    expect(calls().slice(2)).toEqual([
      "--user disable --now ggml-rpc.service",
      "--user daemon-reload",
    ])
    expect((await run(["remove"], PATH)).stderr).toContain("No service is installed")
  })

  test("that cannot be started, and a word that is no action, are told", async () => {
    const failed = await run(["install", "-y"], pathWithSystemctl("echo no bus >&2; exit 1"))
    expect(failed.exitCode).toBe(1)
    expect(failed.stderr).toContain("'systemctl --user daemon-reload' failed: no bus")
    expect((await run(["start"], "/usr/bin")).exitCode).toBe(2)
    expect((await run(["install", "--port", "x"], "/usr/bin")).exitCode).toBe(2)
  })

  test("starts the server that it describes", async () => {
    const { stdout } = await run(["install", "--port", "0", "--threads", "1"], "/usr/bin:/bin")
    const [, words] = /^ExecStart=(.*)$/m.exec(stdout)!
    // Without an odd word among them, the quotes are a shell's.
    const child = Bun.spawn(["sh", "-c", `exec ${words}`], {
      cwd: home,
      env: { ...process.env, XDG_STATE_HOME: "/dev/null" },
      stdio: ["ignore", "pipe", "ignore"],
    })
    let text = ""
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      text += chunk
      if (text.includes("listening on")) child.kill("SIGTERM")
    }
    expect(text).toContain("listening on 127.0.0.1:")
    expect(await child.exited).toBe(0)
  })
})

test("a launchd agent is XML that names program, folder and log", () => {
  const { path, describe: text, start } = serviceManager("darwin", { HOME: "/Users/me" })
  expect(path).toBe("/Users/me/Library/LaunchAgents/ggml-rpc.serve.plist")
  expect(start).toEqual([["launchctl", "bootstrap", expect.stringContaining("gui/"), path]])
  const agent = text({ words: ["/bin/bun", "a<b&c>"], folder: "/tmp" })
  expect(agent).toBe(
    launchdAgent("ggml-rpc.serve", "/Users/me/Library/Logs/ggml-rpc.log", {
      words: ["/bin/bun", "a<b&c>"],
      folder: "/tmp",
    }),
  )
  expect(agent).toContain("<string>a&lt;b&amp;c&gt;</string>")
  const open = [...agent.matchAll(/<(\w+)[^>/]*>/g)].map(([, name]) => name)
  const close = [...agent.matchAll(/<\/(\w+)>/g)].map(([, name]) => name)
  expect(open.sort()).toEqual(close.sort())
})
