/** One model over the devices of some servers, by the parts of the client that compute: which bits come of it, and what a token costs. */
import { expect } from "bun:test"
import { join } from "node:path"
import type { Said } from "../packages/client/src/devices/tensorSplit.testChild.ts"
import { runProcess, type ServerProcess } from "./peers/process.ts"

const child = join(
  import.meta.dir,
  "..",
  "packages",
  "client",
  "src",
  "devices",
  "tensorSplit.testChild.ts",
)

export interface SplitWork {
  /** All devices of each are used. */
  readonly servers: ReadonlyArray<ServerProcess>
  readonly path: string
  /** Who adds up; `layer` cuts no tensor. */
  readonly sums: "servers" | "client" | "ggml" | "layer"
  readonly promptLength: number
  readonly ubatch: number
  readonly token?: string
  /** Numbers of devices, over all servers, in the order in which tensors are cut; default: theirs. */
  readonly order?: ReadonlyArray<number>
}

/** What came of a prompt and some tokens; fails where that is not all. */
export const computed = async (work: SplitWork): Promise<Said> => {
  const result = await runProcess([
    ...[process.execPath, child, work.servers.map(({ port }) => port).join(","), work.path],
    ...[work.sums, String(work.promptLength), String(work.ubatch)],
    ...[work.token ?? "", work.order?.join(",") ?? ""],
  ])
  expect(result).toMatchObject({ exitCode: 0, stderr: "" })
  const said = JSON.parse(result.stdout) as Said
  expect(said.failure).toBeNull()
  expect(new Set(said.statuses)).toEqual(new Set([0]))
  return said
}
