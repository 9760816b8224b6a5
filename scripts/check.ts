#!/usr/bin/env bun
/**
 * Every check of this repository: types, lint, and all tests (unit, end-to-end, interop with
 * upstream's binaries). `bun run check [-- --only WORD] [--jobs N] [--verbose]`; WORD is `types`,
 * `lint`, `unit`, `e2e` or a part of a test file's path.
 *
 * Each test file is a `bun test` process of its own, so that a crash in native code costs one file, and
 * a few run at a time. The last line on stdout counts: `N passed, N failed[, N skipped]`.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"

const root = join(import.meta.dir, "..")
const usage = "Usage: bun run check [-- --only types|lint|unit|e2e|PATH] [--jobs N] [--verbose]"

/** For tests that name no time of their own: with a few files at a time, a second may take five. */
const TEST_TIMEOUT_MS = 60_000
/** A test file that takes longer hangs; all of upstream's operation tests take half an hour. */
const JOB_TIMEOUT_MS = process.env.GGML_RPC_ALL_OPS === "1" ? 7_200_000 : 300_000
/** The peers of all releases, fetched and compiled, where two cores do other things as well. */
const PEERS_TIMEOUT_MS = 1_200_000
const END_GRACE_MS = 1000
/** With more at a time, the tests' own servers and engines would starve each other. */
const MAX_JOBS = 4

type Kind = "types" | "lint" | "peers" | "unit" | "e2e"

interface Job {
  readonly kind: Kind
  readonly name: string
  readonly command: ReadonlyArray<string>
  /** Where `bun test` leaves its counts; without it the exit code is the one result. */
  readonly reportPath?: string
  /** Default {@link JOB_TIMEOUT_MS}. */
  readonly timeoutMs?: number
}

interface Counts {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

interface Outcome {
  readonly job: Job
  readonly counts: Counts
  readonly output: string
  readonly seconds: number
  /** Of processors, by the process and those that it waited for. */
  readonly cpuSeconds: number
}

interface Options {
  readonly only: string | undefined
  readonly jobCount: number
  readonly isVerbose: boolean
}

const readOptions = (): Options => {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: "string" },
        jobs: { type: "string" },
        verbose: { type: "boolean", default: false },
      },
    })
    // One more than cores: many tests wait for a while where others compute.
    const jobCount = Number(values.jobs ?? Math.min(availableParallelism() + 1, MAX_JOBS))
    if (!Number.isInteger(jobCount) || jobCount < 1) throw new Error("--jobs needs a count from 1")
    return { only: values.only, jobCount, isVerbose: values.verbose }
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n${usage}`)
    process.exit(2)
  }
}

const testFiles = (): ReadonlyArray<string> =>
  [
    "packages/*/{src,page,scripts,test,bench}/**/*.test.ts",
    "tests/**/*.test.ts",
    "scripts/**/*.test.ts",
  ]
    .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root })])
    .filter((path) => !/(^|\/)(node_modules|build)\//.test(path))
    .sort()

const isEndToEnd = (path: string): boolean => path.startsWith("tests/")

/** What says soonest that something is wrong; then tests that start servers, which take long, or the last one runs alone. */
const orderOf = ({ kind, name }: Job): number =>
  kind === "types" || kind === "lint" ? 0 : kind === "e2e" || name.includes("/test/") ? 1 : 2

const tool = (name: "tsc" | "biome", ...args: ReadonlyArray<string>): ReadonlyArray<string> => [
  process.execPath,
  join(root, "node_modules", ".bin", name),
  ...args,
]

const jobsOf = (reports: string): ReadonlyArray<Job> => {
  const tests = testFiles().map((path, index): Job => {
    const reportPath = join(reports, `${index}.xml`)
    return {
      kind: isEndToEnd(path) ? "e2e" : "unit",
      name: path,
      command: [
        ...[process.execPath, "test", `./${path}`, `--timeout=${TEST_TIMEOUT_MS}`],
        ...["--reporter=junit", `--reporter-outfile=${reportPath}`],
      ],
      reportPath,
    }
  })
  return [
    { kind: "types", name: "types (tsc)", command: tool("tsc", "--noEmit") },
    // Its code runs in a browser.
    {
      kind: "types",
      name: "types of the page (tsc)",
      command: tool("tsc", "--noEmit", "-p", "packages/api/page"),
    },
    { kind: "lint", name: "lint (biome)", command: tool("biome", "ci", "--colors=off", ".") },
    ...tests,
  ]
}

/**
 * Compiled before the tests that need them, or several would compile the same ones at a time; with those of
 * the llama.cpp releases that the tests try, all of them where `GGML_RPC_ALL_RELEASES` is 1.
 */
const peersJob: Job = {
  kind: "peers",
  name: "upstream peers",
  command: [process.execPath, join(root, "tests", "peers", "peers.ts")],
  timeoutMs: PEERS_TIMEOUT_MS,
}

const isWanted = (job: Job, only: string | undefined): boolean =>
  only === undefined ||
  job.kind === only ||
  (job.reportPath !== undefined && job.name.includes(only))

// ---- running ------------------------------------------------------------------------------------

const groups = new Set<number>()
const signalNumbers = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const

const signalGroup = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(-pid, signal)
  } catch {
    // It is gone.
  }
}

/**
 * Ends a job. SIGTERM first: a test process takes along the servers that it started, which have groups
 * of their own.
 */
const endGroup = async (pid: number): Promise<void> => {
  signalGroup(pid, "SIGTERM")
  await Bun.sleep(END_GRACE_MS)
  signalGroup(pid, "SIGKILL")
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, async () => {
    await Promise.all([...groups].map(endGroup))
    process.exit(128 + signalNumbers[signal])
  })
}

const runJob = async (job: Job): Promise<Outcome> => {
  const started = performance.now()
  const child = Bun.spawn([...job.command], {
    cwd: root,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    // Threads of ggml that wait for each other spin, and there are more of them than cores.
    env: { ...process.env, FORCE_COLOR: "0", NO_COLOR: "1", LLAMA_ARG_THREADS: "1" },
    // A group of its own, which can be ended as a whole.
    detached: true,
  })
  groups.add(child.pid)
  const timeoutMs = job.timeoutMs ?? JOB_TIMEOUT_MS
  let hasTimedOut = false
  const timer = setTimeout(() => {
    hasTimedOut = true
    void endGroup(child.pid)
  }, timeoutMs)
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  clearTimeout(timer)
  signalGroup(child.pid, "SIGKILL")
  groups.delete(child.pid)
  const ending = hasTimedOut
    ? `\n${job.name} took longer than ${timeoutMs / 1000} s and was ended`
    : child.signalCode !== null
      ? `\n${job.name} was ended by ${child.signalCode}`
      : ""
  return {
    job,
    counts: countsOf(job, exitCode === 0 && !hasTimedOut),
    output: `${stdout}${stderr}${ending}`,
    seconds: (performance.now() - started) / 1000,
    cpuSeconds: Number(child.resourceUsage()?.cpuTime.total ?? 0) / 1e6,
  }
}

/** A file that ended badly without a failed test, by a crash or an error outside of tests, failed once. */
const countsOf = (job: Job, isSuccess: boolean): Counts => {
  const reported =
    job.reportPath === undefined
      ? { passed: isSuccess ? 1 : 0, failed: 0, skipped: 0 }
      : readReport(job.reportPath)
  const isUnexplained = isSuccess ? reported.passed + reported.skipped === 0 : reported.failed === 0
  return isUnexplained ? { ...reported, failed: reported.failed + 1 } : reported
}

/** Counts of a JUnit report; zeros when there is none. */
const readReport = (path: string): Counts => {
  let xml: string
  try {
    xml = readFileSync(path, "utf8")
  } catch {
    return { passed: 0, failed: 0, skipped: 0 }
  }
  const head = /<testsuites\b[^>]*>/.exec(xml)?.[0] ?? ""
  const count = (name: string): number =>
    Number(new RegExp(`\\b${name}="(\\d+)"`).exec(head)?.[1] ?? 0)
  const failed = count("failures") + count("errors")
  const skipped = count("skipped")
  return { passed: count("tests") - failed - skipped, failed, skipped }
}

const show = ({ job, counts, output, seconds, cpuSeconds }: Outcome, isVerbose: boolean): void => {
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : ""
  const result = counts.failed > 0 ? `FAILED (${counts.failed})` : "ok"
  const passed = job.reportPath === undefined ? "" : ` ${counts.passed} passed${skipped},`
  console.log(
    `${result} ${job.name}:${passed} ${seconds.toFixed(1)} s, ${cpuSeconds.toFixed(1)} of CPU`,
  )
  if (counts.failed > 0 || isVerbose) console.log(output.trimEnd())
}

/** Runs jobs, `count` at a time, in order of the list. */
const runAll = async (
  jobs: ReadonlyArray<Job>,
  count: number,
  done: (outcome: Outcome) => void,
): Promise<void> => {
  const queue = [...jobs]
  const work = async (): Promise<void> => {
    for (let job = queue.shift(); job !== undefined; job = queue.shift()) done(await runJob(job))
  }
  await Promise.all(Array.from({ length: count }, work))
}

const main = async (): Promise<void> => {
  const options = readOptions()
  const reports = mkdtempSync(join(tmpdir(), "ggml-rpc-check-"))
  process.on("exit", () => rmSync(reports, { recursive: true, force: true }))
  const jobs = jobsOf(reports).filter((job) => isWanted(job, options.only))
  if (jobs.length === 0) {
    console.error(`Nothing is called ${options.only}.\n${usage}`)
    process.exit(2)
  }
  const outcomes: Array<Outcome> = []
  const done = (outcome: Outcome): void => {
    outcomes.push(outcome)
    show(outcome, options.isVerbose)
  }
  const started = performance.now()
  // The compilers run two at a time by themselves.
  if (jobs.some((job) => job.kind === "e2e")) await runAll([peersJob], 1, done)
  await runAll(
    jobs.sort((a, b) => orderOf(a) - orderOf(b)),
    options.jobCount,
    done,
  )
  const sum = (of: (counts: Counts) => number): number =>
    outcomes.reduce((total, { counts }) => total + of(counts), 0)
  const [passed, failed, skipped] = [
    sum((counts) => counts.passed),
    sum((counts) => counts.failed),
    sum((counts) => counts.skipped),
  ]
  for (const { job, counts } of outcomes) {
    if (counts.failed > 0) console.log(`failed: ${job.name}`)
  }
  console.log(`${((performance.now() - started) / 1000).toFixed(0)} s`)
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`)
  process.exitCode = failed > 0 ? 1 : 0
}

await main()
