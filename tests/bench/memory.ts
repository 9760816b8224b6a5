/** Peak memory of client and server while a model is loaded and generates. */
import { statSync } from "node:fs"
import {
  type ClientJob,
  type ClientResult,
  runClient,
  type Side,
  startBenchServer,
} from "./sides.ts"

export interface MemoryRow {
  readonly model: string
  readonly ubatchSize: number
  readonly side: Side
  /** The model file, which the client maps. */
  readonly fileBytes: number
  readonly memory: NonNullable<ClientResult["memory"]>
}

/** One client on one fresh server. */
export const measureMemory = async (
  model: string,
  side: Side,
  job: ClientJob,
): Promise<MemoryRow & Pick<ClientResult, "breakdown">> => {
  await using server = await startBenchServer({ side, prefix: [] })
  const result = await runClient({ side, prefix: [], watchMemory: true }, [server], job)
  return {
    model,
    ubatchSize: job.ubatchSize,
    side,
    fileBytes: statSync(job.modelPath).size,
    memory: result.memory!,
    ...(result.breakdown === undefined ? {} : { breakdown: result.breakdown }),
  }
}
