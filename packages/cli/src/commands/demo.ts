/** `ggml-rpc demo`: the whole thing on one machine, within seconds. */
import { mkdtempSync, rmSync } from "node:fs"
import { copyFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Cluster } from "@ggml-rpc/client"
import { serve } from "@ggml-rpc/server"
import * as Effect from "effect/Effect"
import { writeDemoModel } from "../demo-model/index.ts"
import { SaveError } from "../errors.ts"
import { fileReason } from "../fileReason.ts"
import type { CommandValues } from "../flags/commands.ts"
import { textReport } from "../runReport.ts"
import { columnsOf, print, printLine, stdout, styleOf } from "../terminal.ts"
import { wrap } from "../wrap.ts"
import { endingEngineFirst } from "./endingEngineFirst.ts"
import { prepareNative } from "./inputs.ts"
import { recite } from "./run.ts"

const SERVER_COUNT = 2

export const demo = (values: CommandValues<"demo">) =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* prepareNative
      heading(
        "1. Two servers",
        "Each would run on a machine of its own, started by 'ggml-rpc serve'. These two are on this one.",
      )
      const servers = yield* Effect.replicateEffect(
        // This machine is to do all the work: one log line less for each client that comes and goes.
        serve({ port: 0, log: () => {} }),
        SERVER_COUNT,
      )
      for (const { endpoint, devices } of servers) {
        printLine(`   ${endpoint}  ${devices.map(({ name }) => name).join(", ")}`)
      }
      const path = yield* demoModelFile(values.save)
      const endpoints = servers.map(({ host, port }) => ({ host, port }))
      heading(
        "2. One model, split",
        `'ggml-rpc run --rpc ${servers.map(({ endpoint }) => endpoint).join(",")} demo.gguf' asks them what they have free and gives each a part of the layers. Then the model speaks, one word at a time.`,
      )
      // Only the servers' devices: the split is what there is to see.
      const cluster = yield* Cluster.open({ endpoints, localDevices: [] })
      const report = textReport({
        write: print,
        style: styleOf(stdout),
        columns: columnsOf(stdout),
        isTerminal: stdout.isTTY,
        textColumns: textColumns(),
      })
      yield* endingEngineFirst(
        cluster,
        recite(cluster, path, {}, report, { prompt: "Hello", options: { temp: 0 } }),
      )
      heading("3. The end", endText(values.save))
    }),
  )

const endText = (saved: string | undefined): string =>
  `The servers stop now${saved === undefined ? ", and the model's file goes" : ` and the model stays in ${saved}`}. With a model of your own: 'ggml-rpc serve --host ADDRESS' on each machine, then 'ggml-rpc run --rpc ADDRESS:50052,… model.gguf -p …' on this one.`

/** Longer lines are hard to read. */
const textColumns = (): number =>
  stdout.isTTY ? Math.min(100, columnsOf(stdout)) : Number.POSITIVE_INFINITY

const heading = (title: string, text: string): void => {
  printLine(`\n${styleOf(stdout).bold(title)}`)
  printLine(wrap(text, textColumns()).join("\n"))
  printLine("")
}

/** The model's file, gone when the scope closes; a copy stays where `save` says. */
const demoModelFile = (save: string | undefined) =>
  Effect.gen(function* () {
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "ggml-rpc-demo-"))),
      (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true })),
    )
    const path = join(folder, "demo.gguf")
    yield* Effect.sync(() => writeDemoModel(path))
    if (save !== undefined) {
      yield* Effect.tryPromise({
        try: () => copyFile(path, save),
        catch: (cause) => new SaveError({ path: save, reason: fileReason(cause) }),
      })
    }
    return path
  })
