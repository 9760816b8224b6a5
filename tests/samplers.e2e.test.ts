/** Every flag of sampling against llama.cpp's own command: the same text, greedy and by a seed. */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { writeEncoderModels } from "./models/encoders.ts"
import { ensureModel } from "./models/models.ts"
import { ensurePeers } from "./peers/peers.ts"
import { runProcess } from "./peers/process.ts"
import { ggmlRpc } from "./servers.ts"

setDefaultTimeout(60_000)

/** With repeats, for what is about them. */
const prompt = "one two three, one two three, one two"

let model: string
let completion: string

beforeAll(async () => {
  model = await ensureModel("tiny")
  completion = (await ensurePeers(["llama-completion"]))["llama-completion"]
}, 300_000)

/** What both are given. */
interface Given {
  readonly path?: string
  readonly text?: string
}

const theirs = async (flags: readonly string[], given: Given = {}): Promise<string> => {
  const { path = model, text = prompt } = given
  const command = [
    ...[completion, "-m", path, "-p", text, "-n", "24", "-t", "1", "-c", "128"],
    ...["-no-cnv", "--no-display-prompt", "--no-perf", "--no-warmup", "-dev", "none"],
  ]
  const { stdout, stderr, exitCode } = await runProcess([...command, ...flags])
  if (exitCode !== 0) throw new Error(stderr)
  // It ends the text with a line, and says where the model ended it.
  return stdout.replace(/ \[end of text\]/, "").replace(/\n+$/, "")
}

const ours = async (flags: readonly string[], given: Given = {}): Promise<string> => {
  const { path = model, text = prompt } = given
  const command = [...ggmlRpc, "run", path, "-p", text, "-n", "24", "-t", "1", "-c", "128"]
  const { stdout, stderr, exitCode } = await runProcess([...command, "-dev", "none", ...flags])
  if (exitCode !== 0) throw new Error(stderr)
  return stdout.replace(/\n+$/, "")
}

const seeded = ["--seed", "42", "--temp", "1.2"]

const cases: readonly (readonly string[])[] = [
  ["--temp", "0"],
  ["--temp", "-1"],
  ["--temp", "0", "--repeat-penalty", "1.8"],
  ["--temp", "0", "--repeat-penalty", "1.8", "--repeat-last-n", "4"],
  ["--temp", "0", "--presence-penalty", "3"],
  ["--temp", "0", "--frequency-penalty", "2.5"],
  ["--temp", "0", "--frequency-penalty", "-2.5"],
  ["--temp", "0", "--dry-multiplier", "4", "--dry-allowed-length", "1"],
  [
    "--temp",
    "0",
    "--dry-multiplier",
    "4",
    "--dry-base",
    "3",
    "--dry-sequence-breaker",
    ",",
    "--dry-sequence-breaker",
    "word",
  ],
  ["--temp", "0", "--dry-multiplier", "4", "--dry-penalty-last-n", "8"],
  ["--temp", "0", "--ignore-eos"],
  ["--temp", "0", "--logit-bias", "20+30"],
  ["--temp", "0", "-l", "40-inf", "-l", "41-inf"],
  ["--temp", "0", "--xtc-probability", "1", "--xtc-threshold", "0.01", "--seed", "42"],
  ["--temp", "0", "--typical", "0.1"],
  ["--temp", "0", "--grammar", 'root ::= ("ab" | "c")+'],
  ["--seed", "42"],
  seeded,
  [...seeded, "--top-k", "3"],
  [...seeded, "--top-k", "0", "--top-p", "1", "--min-p", "0"],
  [...seeded, "--top-p", "0.3"],
  [...seeded, "--min-p", "0.5"],
  [...seeded, "--typical", "0.3"],
  [...seeded, "--top-nsigma", "1"],
  [...seeded, "--xtc-probability", "0.5", "--xtc-threshold", "0.02"],
  [...seeded, "--repeat-penalty", "1.5"],
  [...seeded, "--dynatemp-range", "1", "--dynatemp-exp", "1.5"],
  [...seeded, "--mirostat", "1"],
  [...seeded, "--mirostat", "2", "--mirostat-lr", "0.3", "--mirostat-ent", "3"],
  [...seeded, "--samplers", "top_k;temperature", "--top-k", "5"],
  [...seeded, "--samplers", "temp;min-p;topk"],
  [
    ...seeded,
    "--samplers",
    "min_p;adaptive_p",
    "--adaptive-target",
    "0.3",
    "--adaptive-decay",
    "0.5",
  ],
  [...seeded, "--grammar", 'root ::= [a-z ]+ "."'],
]

test.each(cases.map((flags) => [flags.join(" "), flags] as const))("%s", async (_, flags) => {
  const [expected, found] = await Promise.all([theirs(flags), ours(flags)])
  expect(found).toBe(expected)
})

test.each([
  ["a mark that ends a text", "one </s> two"],
  ["a mark that begins one", "<s>one two"],
  ["an unknown token and escapes", "one\\n<unk>\\ttwo"],
])("a prompt with %s", async (_, text) => {
  const flags = ["--temp", "0", "--repeat-penalty", "1.5"]
  const [expected, found] = await Promise.all([theirs(flags, { text }), ours(flags, { text })])
  expect(found).toBe(expected)
})

test.each([["--temp", "0"], seeded, [...seeded, "--repeat-penalty", "1.8"]])(
  "a model with encoder and decoder: %p %p",
  async (...flags) => {
    const folder = mkdtempSync(join(tmpdir(), "encoder-"))
    try {
      const path = writeEncoderModels(folder).t5
      const [expected, found] = await Promise.all([theirs(flags, { path }), ours(flags, { path })])
      expect(found).toBe(expected)
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
)

test("to look back for ever takes neither memory nor time", async () => {
  const back = (count: number) => [
    "--repeat-last-n",
    String(count),
    "--dry-penalty-last-n",
    String(count),
  ]
  const flags = ["--temp", "0", "--repeat-penalty", "1.5", "--dry-multiplier", "1"]
  const started = performance.now()
  const [all, many] = [
    await ours([...flags, ...back(2 ** 31 - 1)]),
    await ours([...flags, ...back(4096)]),
  ]
  expect(all).toBe(many)
  expect(performance.now() - started).toBeLessThan(20_000)
})

test("a grammar in a file", async () => {
  const folder = mkdtempSync(join(tmpdir(), "grammar-"))
  try {
    const file = join(folder, "yes.gbnf")
    writeFileSync(file, 'root ::= "yes" | "no"\n')
    expect(await ours(["--temp", "0", "--grammar-file", file])).toMatch(/^(yes|no)$/)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test.each([
  ["--repeat-penalty", "0", "--repeat-penalty takes a number"],
  ["--samplers", "top_k;nonsense", "there is no 'nonsense'"],
  ["--logit-bias", "hello", "--logit-bias takes a token's number"],
  ["--logit-bias", "99999999+1", "none 99999999 whose logit could be changed"],
  ["--grammar", "root ::= missing", "the grammar is no GBNF"],
  ["--grammar", 'root ::= "{2,1}" [{2,1}] "a"{5, 2} # {2,1}', "repeats something {5, 2} times"],
  ["--grammar-file", "/nowhere.gbnf", "--grammar-file: /nowhere.gbnf cannot be read"],
])("%s %s: a sentence, and exit code 1 or 2", async (flag, value, text) => {
  const command = [...ggmlRpc, "run", model, "-p", prompt, "-n", "4", "-dev", "none", flag, value]
  const { stderr, exitCode } = await runProcess(command)
  expect(exitCode === 1 || exitCode === 2).toBe(true)
  expect(stderr).toContain(text)
  expect(stderr).not.toContain("    at ")
})
