import { expect, test } from "bun:test"
import { commands } from "./commands.ts"
import type { Flag } from "./Flag.ts"

const { run, serve, verify } = commands

const read = <A>({ kind, name }: Flag<A>, ...[text, ...more]: [string, ...Array<string>]): A =>
  kind.read([text, ...more], `--${name}`)

const rejected = (flag: Flag<unknown>, text: string): string => {
  try {
    read(flag, text)
  } catch (error) {
    return (error as Error).message
  }
  throw new Error(`${text} was accepted`)
}

test("numbers are checked, and the last one counts", () => {
  expect(read(run.flags.contextSize, "1", "4096")).toBe(4096)
  expect(read(run.flags.predict, "-1")).toBe(-1)
  expect(read(run.flags.seed, "4294967295")).toBe(4294967295)
  for (const text of ["", " ", "x", "1.5", "-1", "1e99", "0x"]) {
    expect(rejected(run.flags.contextSize, text)).toContain("--ctx-size takes a whole")
  }
  expect(rejected(serve.flags.port, "65536")).toBe(
    "--port takes a whole number from 0 to 65535, not '65536'",
  )
  expect(rejected(run.flags.repeatPenalty, "0")).toContain("--repeat-penalty")
})

test("paths and hosts are not empty, a prompt may be", () => {
  expect(rejected(serve.flags.host, "")).toBe("--host takes a HOST, not ''")
  expect(rejected(run.flags.model, " ")).toContain("--model takes a FILE")
  expect(read(run.flags.prompt, "")).toBe("")
})

test("words and lists", () => {
  expect(read(run.flags.flashAttention, "TRUE")).toBe("on")
  expect(read(run.flags.flashAttention, "0")).toBe("off")
  expect(rejected(run.flags.flashAttention, "maybe")).toBe(
    "--flash-attn takes on, off or auto, not 'maybe'",
  )
  expect(rejected(run.flags.typeK, "q3")).toContain("q5_0 or q5_1")
  expect(read(run.flags.gpuLayers, "auto")).toBeUndefined()
  expect(read(run.flags.gpuLayers, "-1")).toBeUndefined()
  expect(read(run.flags.gpuLayers, "all")).toBeGreaterThan(1000)
  expect(read(run.flags.tensorSplit, "3,1/2")).toEqual([3, 1, 2])
  expect(rejected(run.flags.tensorSplit, "3,,1")).toContain("--tensor-split")
  expect(rejected(run.flags.tensorSplit, "3,-1")).toContain("--tensor-split")
  expect(read(run.flags.device, "CUDA0,CUDA1")).toEqual(["CUDA0", "CUDA1"])
  expect(read(run.flags.device, "CUDA0/CUDA1")).toEqual(["CUDA0", "CUDA1"])
  expect(rejected(serve.flags.device, "CPU,")).toContain("--device")
  expect(read(serve.flags.allow, "10.0.0.0/8,::1")).toEqual(["10.0.0.0/8", "::1"])
  expect(read(verify.flags.tokens, "1, 2 3")).toEqual([1, 2, 3])
  expect(rejected(verify.flags.tokens, "1,2.5")).toContain("--tokens")
})

test("servers and biases add up", () => {
  expect(read(run.flags.rpc, "a:1", "b:2")).toBe("a:1,b:2")
  expect(read(run.flags.logitBias, "1+2", "3-inf")).toEqual([
    [1, 2],
    [3, Number.NEGATIVE_INFINITY],
  ])
  expect(read(run.flags.drySequenceBreakers, ",", ";")).toEqual([",", ";"])
  expect(read(run.flags.drySequenceBreakers, "none")).toEqual([])
})

test("several values, and llama-bench's ranges", () => {
  const { nPrompt, threads, flashAttention, tensorSplits, promptAndText, gpuLayers } =
    commands.bench.flags
  expect(read(nPrompt, "512,1024", "0")).toEqual([512, 1024, 0])
  expect(read(nPrompt, "1-4")).toEqual([1, 2, 3, 4])
  expect(read(nPrompt, "0-512+256,7")).toEqual([0, 256, 512, 7])
  expect(read(threads, "1-20*4")).toEqual([1, 4, 16])
  expect(read(flashAttention, "on,0", "auto")).toEqual(["on", "off", "auto"])
  expect(read(tensorSplits, "1/1,3/1")).toEqual([
    [1, 1],
    [3, 1],
  ])
  expect(read(promptAndText, "512,128", "8, 9")).toEqual([
    { prompt: 512, text: 128 },
    { prompt: 8, text: 9 },
  ])
  expect(read(gpuLayers, "auto,7")).toEqual([-1, 7])
  expect(rejected(nPrompt, "1,x")).toContain("--n-prompt takes a whole number from 0")
  expect(rejected(nPrompt, "8-1")).toContain("ranges that rise")
  for (const endless of ["0-8*2", "1-8*1", "1-8+0"]) {
    expect(rejected(nPrompt, endless)).toContain("ranges that end")
  }
  expect(read(nPrompt, "1-1000")).toHaveLength(1000)
  for (const many of ["0-99999999", "1-1001", "1-600,1-600"]) {
    expect(rejected(nPrompt, many)).toContain("more than 1000 values")
  }
  expect(rejected(promptAndText, "512")).toContain("such as 512,128")
})
