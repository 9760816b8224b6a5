import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type ArchitectureModel, ensureArchitectureModels } from "./models.ts"
import { ensurePeers, PeerBuildError, peerNames } from "./peers.ts"
import { runProcess, startUpstreamServer } from "./process.ts"

setDefaultTimeout(60_000)

let paths: Awaited<ReturnType<typeof ensurePeers>>
let models: ReadonlyArray<ArchitectureModel>
const scratch = mkdtempSync(join(tmpdir(), "peers-test-"))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

// Compiling everything takes half a minute on two cores that do nothing else.
beforeAll(async () => {
  paths = await ensurePeers()
  models = await ensureArchitectureModels()
}, 600_000)

const promptIds = [1, 2, 3, 4, 5, 60, 70, 127]

const modelPath = (name: string): string => {
  const model = models.find((candidate) => candidate.name === name)
  if (model === undefined) throw new Error(`test-llama-archs wrote no ${name}`)
  return model.path
}

interface Generation {
  readonly devices: ReadonlyArray<{ name: string; description: string; totalBytes: number }>
  readonly runs: ReadonlyArray<{ tokens: number[]; promptMs: number; tokenMs: number[] }>
  readonly logits: Float32Array
}

const generate = async (model: string, options: readonly string[]): Promise<Generation> => {
  const logitsPath = join(scratch, `${Bun.randomUUIDv7()}.logits`)
  const result = await runProcess([
    paths["upstream-client"],
    ...["-m", modelPath(model), "--tokens", promptIds.join(","), "-n", "12", "-t", "1"],
    ...["--logits", logitsPath, ...options],
  ])
  expect(result).toMatchObject({ exitCode: 0, stderr: "" })
  const logits = new Float32Array(await Bun.file(logitsPath).arrayBuffer())
  return { ...JSON.parse(result.stdout), logits }
}

describe("upstream client", () => {
  // Attention, a mixture of experts, and a recurrent state.
  test.each(["llama-dense", "qwen3moe-moe", "mamba2-dense"])(
    "%s over one and two upstream servers computes what it computes in process",
    async (model) => {
      await using first = await startUpstreamServer({ threads: 1 })
      await using second = await startUpstreamServer({ threads: 1 })
      const local = await generate(model, ["--repeat", "2"])
      const one = await generate(model, ["--rpc", first.endpoint])
      const two = await generate(model, ["--rpc", `${first.endpoint},${second.endpoint}`])

      expect(local.devices).toEqual([])
      expect(one.devices.map((device) => device.description)).toEqual([first.endpoint])
      expect(two.devices.map((device) => device.description)).toEqual([
        first.endpoint,
        second.endpoint,
      ])
      const [expected] = local.runs
      expect(expected?.tokens).toHaveLength(12)
      expect(local.runs[1]?.tokens).toEqual(expected?.tokens)
      expect(one.runs[0]?.tokens).toEqual(expected?.tokens)
      expect(two.runs[0]?.tokens).toEqual(expected?.tokens)
      expect(local.logits).toHaveLength(promptIds.length * 128)
      // One thread everywhere, so that sums are taken in the same order: the logits are the same bits.
      expect(one.logits).toEqual(local.logits)
      expect(two.logits).toEqual(local.logits)
      expect(first.stdout()).toContain("Accepted client connection")
      expect(second.stdout()).toContain("Accepted client connection")
    },
  )

  test("says which option it does not know", async () => {
    const result = await runProcess([paths["upstream-client"], "--nonsense"])
    expect(result.exitCode).toBe(2)
    expect(result.stderr).toContain("unknown or incomplete option --nonsense")
  })
})

describe("test-backend-ops through librpc-device.so", () => {
  const backendOps = (endpoints: string, options: readonly string[]) =>
    runProcess([paths["test-backend-ops"], ...options], {
      env: { GGML_BACKEND_PATH: paths["librpc-device.so"], GGML_RPC_DEVICE_ENDPOINTS: endpoints },
    })

  test("sees the devices of every endpoint and passes ops on upstream's server", async () => {
    await using first = await startUpstreamServer()
    await using second = await startUpstreamServer()
    const result = await backendOps(`${first.endpoint},${second.endpoint}`, [
      ...["-p", "^type=f16,ne=\\[10,5,4,3\\]"],
    ])
    expect(result.stdout).toContain("Testing 3 devices")
    expect(result.stdout).toContain("Backend 1/3: CPU")
    expect(result.stdout).toContain("Backend 2/3: RPC0")
    expect(result.stdout).toContain(`Device description: ${first.endpoint}`)
    expect(result.stdout).toContain("Backend 3/3: RPC1")
    expect(result.stdout).toContain(`Device description: ${second.endpoint}`)
    expect(result.stdout).toMatch(/SQR\(type=f16,ne=\[10,5,4,3\]\): .*OK/)
    expect(result.stdout).not.toContain("FAIL")
    expect(result.exitCode).toBe(0)
  })

  test("ends with an error when no endpoint is given", async () => {
    const result = await backendOps("", ["-o", "ADD"])
    expect(result.exitCode).toBe(3)
    expect(result.stderr).toContain("GGML_RPC_DEVICE_ENDPOINTS names no server")
  })
})

describe("test-llama-archs", () => {
  test("writes 127 models of dense, expert, recurrent, hybrid and diffusion kind", () => {
    const names = models.map((model) => model.name)
    expect(names).toHaveLength(127)
    expect(names).toContain("llama-dense")
    expect(names).toContain("deepseek4-moe")
    expect(names).toContain("mamba-dense")
    expect(names).toContain("jamba-dense")
    expect(models.filter((model) => model.encode).map((model) => model.name)).toEqual([
      "dream-dense",
      "llada-dense",
      "llada-moe-moe",
      "rnd1-moe",
    ])
  })
})

describe("tools", () => {
  test("llama-bench measures over --rpc", async () => {
    await using server = await startUpstreamServer({ threads: 1 })
    const result = await runProcess([
      ...[paths["llama-bench"], "--rpc", server.endpoint, "-m", modelPath("llama-dense")],
      ...["-p", "16", "-n", "4", "-r", "1", "-t", "1", "-ngl", "99", "-o", "json"],
    ])
    expect(result.exitCode).toBe(0)
    const rows = JSON.parse(result.stdout) as Array<{ n_prompt: number; avg_ts: number }>
    expect(rows.map((row) => row.n_prompt)).toEqual([16, 0])
    for (const row of rows) expect(row.avg_ts).toBeGreaterThan(0)
    expect(server.stdout()).toContain("Accepted client connection")
  })

  test("llama-completion generates the same over --rpc as in process", async () => {
    await using server = await startUpstreamServer({ threads: 1 })
    const complete = (options: readonly string[]) =>
      runProcess([
        ...[paths["llama-completion"], "-m", modelPath("llama-dense"), "-p", "hello", "-n", "8"],
        ...["--temp", "0", "-t", "1", "-no-cnv", "--ignore-eos", ...options],
      ])
    const local = await complete([])
    const remote = await complete(["--rpc", server.endpoint])
    expect(local.exitCode).toBe(0)
    expect(local.stdout.length).toBeGreaterThan(8)
    // The line ends after the text come from its logging thread, which its exit may overtake.
    expect(remote.stdout.trimEnd()).toBe(local.stdout.trimEnd())
    expect(server.stdout()).toContain("Accepted client connection")
  })
})

describe("building", () => {
  const fakeCompiler = (name: string, script: string): string => {
    const path = join(scratch, name)
    const version = '[ "$1" = --version ] && exec echo fake 1.0'
    writeFileSync(path, `#!/bin/sh\n${version}\n${script}\n`, { mode: 0o755 })
    return path
  }

  test("two builds of the same peer at once both give a whole one", async () => {
    const root = join(scratch, "twice")
    const slow = 'for output; do :; done; printf wh > "$output"; sleep 0.3; printf ole >> "$output"'
    const compiler = fakeCompiler("slow-g++", slow)
    const both = await Promise.all([
      ensurePeers(["rpc-server"], { root, compiler }),
      ensurePeers(["rpc-server"], { root, compiler }),
    ])
    expect(both[0]).toEqual(both[1])
    expect(await Bun.file(both[0]["rpc-server"]).text()).toBe("whole")
    const beside = readdirSync(join(both[0]["rpc-server"], ".."))
    expect(beside).toContain("libggml-rpc.so")
    expect(beside.some((name) => name.startsWith("libggml-cpu"))).toBe(true)
    expect(readdirSync(root).filter((name) => name.startsWith("."))).toEqual([])
  })

  test("a compile that fails shows the compiler's output and leaves nothing behind", async () => {
    const compiler = fakeCompiler("broken-g++", 'echo "no room for $1" >&2; exit 4')
    const root = join(scratch, "failing")
    const failure = await ensurePeers(["libggml-rpc.so"], { root, compiler }).catch(
      (error) => error,
    )
    expect(failure).toBeInstanceOf(PeerBuildError)
    expect(failure.message).toContain("libggml-rpc.so failed (exit code 4)")
    expect(failure.message).toContain("no room for -std=c++17")
    expect(readdirSync(root)).toEqual([])
  })

  test("a compiler that is not there is named", async () => {
    const failure = await ensurePeers(peerNames, { compiler: "no-such-c++" }).catch(
      (error) => error,
    )
    expect(failure).toBeInstanceOf(PeerBuildError)
    expect(failure.message).toContain("no-such-c++ is not on PATH")
  })
})
