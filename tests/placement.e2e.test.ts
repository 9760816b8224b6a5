/** Flags that say where weights are and how positions turn: what they move, and that the text stays llama.cpp's own. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test"
import { join } from "node:path"
import { computedTensor, SeededRandom, writeGguf } from "@ggml-rpc/gguf"
import { runCli, temporaryFolder } from "./cli/program.ts"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess } from "./peers/process.ts"
import { type OurServer, startOurServer } from "./servers.ts"

setDefaultTimeout(60_000)

const folder = temporaryFolder()
const adapter = join(folder.path, "lora.gguf")
let model: string
let experts: string
let completion: string
let servers: ReadonlyArray<OurServer>
let rpc: ReadonlyArray<string>

/** Of the tiny model's first queries, and of the last layer's feed-forward network. */
const writeAdapter = (path: string): void => {
  const random = new SeededRandom(3)
  const part = (name: string, ne: readonly number[]) =>
    computedTensor(name, "F32", ne, (row) => {
      for (let at = 0; at < row.length; at++) row[at] = random.normal()
    })
  writeGguf(path, {
    metadata: [
      ["general.type", { type: "string", value: "adapter" }],
      ["general.architecture", { type: "string", value: "llama" }],
      ["adapter.type", { type: "string", value: "lora" }],
      ["adapter.lora.alpha", { type: "float32", value: 8 }],
    ],
    tensors: [
      part("blk.0.attn_q.weight.lora_a", [64, 4]),
      part("blk.0.attn_q.weight.lora_b", [4, 64]),
      part("blk.3.ffn_down.weight.lora_a", [192, 4]),
      part("blk.3.ffn_down.weight.lora_b", [4, 64]),
    ],
  })
}

beforeAll(async () => {
  writeAdapter(adapter)
  model = await ensureModel("tiny")
  experts = await ensureModel("moe")
  completion = (await ensurePeers(["llama-completion"]))["llama-completion"]
  servers = await Promise.all([startOurServer(), startOurServer()])
  rpc = ["--rpc", servers.map(({ endpoint }) => endpoint).join(",")]
}, 300_000)

afterAll(async () => {
  await Promise.all(servers.map((server) => server.stop()))
  folder[Symbol.dispose]()
})

const prompt = "one two three, one two three, one two"
const given = ["-p", prompt, "-n", "16", "-t", "1", "-c", "256", "--temp", "0"]

const theirs = async (...flags: ReadonlyArray<string>): Promise<string> => {
  const quiet = ["-no-cnv", "--no-display-prompt", "--no-perf", "--no-warmup", "-dev", "none"]
  const result = await runProcess([completion, "-m", model, ...given, ...quiet, ...flags])
  if (result.exitCode !== 0) throw new Error(result.stderr)
  return result.stdout.replace(/ \[end of text\]/, "").replace(/\n+$/, "")
}

const ours = async (path: string, ...flags: ReadonlyArray<string>): Promise<string> => {
  const result = await runCli(["run", path, ...given, ...flags])
  if (result.exitCode !== 0) throw new Error(result.stderr)
  return result.stdout.replace(/\n+$/, "")
}

interface PlannedDevice {
  readonly name: string
  readonly place: string
  readonly unitCount: number
  readonly weightBytes: number
  readonly contextBytes: number
}

interface Planned {
  readonly devices: ReadonlyArray<PlannedDevice>
  readonly host: PlannedDevice
}

const planned = async (path: string, ...flags: ReadonlyArray<string>): Promise<Planned> => {
  const words = ["plan", path, "-c", "256", "--json", ...rpc, ...flags]
  const { stdout, stderr } = await runCli(words)
  expect(stderr).toBe("")
  return JSON.parse(stdout)
}

describe("positions and adapters give llama-completion's text, over servers too", () => {
  test.each([
    [[]],
    [["--rope-freq-base", "500"]],
    [["--rope-freq-scale", "0.25"]],
    [["--rope-scaling", "linear", "--rope-scale", "8"]],
    [["--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "64"]],
    [
      [
        ...["--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-ext-factor", "1"],
        ...["--yarn-attn-factor", "2", "--yarn-beta-slow", "3", "--yarn-beta-fast", "9"],
      ],
    ],
    [["--lora", adapter]],
    [["--lora-scaled", `${adapter}:0.4`]],
    [["--lora", adapter, "--lora-scaled", `${adapter}:-1.5`]],
  ])("%p", async (flags) => {
    const [expected, alone, spread] = await Promise.all([
      theirs(...flags),
      ours(model, "-dev", "none", ...flags),
      ours(model, ...rpc, ...flags),
    ])
    expect([alone, spread]).toEqual([expected, expected])
  })

  test("and each of them changes it", async () => {
    const plain = await ours(model, "-dev", "none")
    for (const flags of [
      ["--rope-freq-base", "500"],
      ["--lora", adapter],
      ["--rope-scale", "8"],
    ]) {
      expect(await ours(model, "-dev", "none", ...flags)).not.toBe(plain)
    }
  })

  test("an adapter that is none is told in a sentence", async () => {
    for (const [path, reason] of [
      ["none.gguf", "There is no file 'none.gguf'"],
      [model, `The model ${model} could not be loaded: it is no adapter (LoRA)`],
      ["a".repeat(5000), "cannot be opened"],
    ] as const) {
      for (const command of ["run", "plan"]) {
        const prompt = command === "run" ? given : []
        const { exitCode, stderr } = await runCli([command, model, ...prompt, "--lora", path])
        expect(stderr).toStartWith("error: ")
        expect(stderr).toContain(reason)
        expect(stderr).not.toContain("loaded in")
        expect(exitCode).toBe(1)
      }
    }
    const wrong = await runCli(["run", experts, ...given, "--lora", adapter])
    expect(wrong.exitCode).toBe(1)
    expect(wrong.stderr).toMatch(/error: .*cannot be used with/s)
  })
})

describe("where weights are", () => {
  test("-ot moves tensors to another device, or to this machine, and the text stays", async () => {
    const before = await planned(model)
    const moved = await planned(model, "-ot", "blk\\.0\\.ffn_[dgu]=RPC1,blk\\.1\\.ffn_[dgu]=CPU")
    const grown = (name: string) =>
      moved.devices.find((device) => device.name === name)!.weightBytes -
      before.devices.find((device) => device.name === name)!.weightBytes
    // Three matrices of 64 × 192 floats, in one layer.
    const ffnBytes = 3 * 64 * 192 * 4
    expect(grown("RPC0")).toBe(-2 * ffnBytes)
    expect(grown("RPC1")).toBe(ffnBytes)
    expect(moved.host.weightBytes - before.host.weightBytes).toBe(ffnBytes)
    expect(
      await ours(model, ...rpc, "-ot", "blk\\.0\\.ffn_[dgu]=RPC1,blk\\.1\\.ffn_[dgu]=CPU"),
    ).toBe(await ours(model, ...rpc))
    // Of a device that has no layers itself.
    const lent = [...rpc, "-ts", "1,0", "-ot", `ffn_down=${servers[1]!.endpoint}`]
    expect(await ours(model, ...lent)).toBe(await ours(model, ...rpc))
  })

  test("-cmoe and -ncmoe keep experts on this machine", async () => {
    const [none, some, all] = await Promise.all([
      planned(experts),
      planned(experts, "-ncmoe", "6"),
      planned(experts, "-cmoe"),
    ])
    const remote = ({ devices }: Planned) =>
      devices.reduce((sum, { weightBytes }) => sum + weightBytes, 0)
    const moved = remote(none) - remote(all)
    expect(moved).toBeGreaterThan(15e6)
    // 6 of 24 layers.
    expect(remote(none) - remote(some)).toBe(moved / 4)
    const expected = await ours(experts, ...rpc)
    expect(await ours(experts, ...rpc, "-ncmoe", "6")).toBe(expected)
  })

  test("-nkvo keeps the cache with this machine", async () => {
    const away = await planned(model, "-nkvo")
    expect(away.devices.map(({ contextBytes }) => contextBytes)).toEqual([0, 0])
    expect(away.host.contextBytes).toBeGreaterThan(0)
    expect(await ours(model, ...rpc, "-nkvo")).toBe(await ours(model, ...rpc))
  })

  test("-dev chooses and orders servers' devices, by name or address", async () => {
    const layers = ({ devices }: Planned) =>
      devices.map(({ name, unitCount }) => [name, unitCount] as const)
    expect(layers(await planned(model, "-dev", "RPC1,RPC0", "-ts", "4,1"))).toEqual([
      ["RPC1", 4],
      ["RPC0", 1],
    ])
    expect(layers(await planned(model, "-dev", servers[1]!.endpoint))).toEqual([["RPC1", 5]])
    const expected = await ours(model, ...rpc)
    expect(await ours(model, ...rpc, "-dev", "RPC1,RPC0")).toBe(expected)
    expect(await ours(model, ...rpc, "-dev", "RPC1")).toBe(expected)
    const unknown = await runCli(["plan", model, ...rpc, "-dev", "RPC7"])
    expect(unknown.exitCode).toBe(1)
    expect(unknown.stderr).toContain("There is no device 'RPC7'; there are: RPC0")
  })
})
