/** Plans of models that are made up: what they take follows from numbers, as libllama would measure it. */
import { PlanError } from "../errors.ts"
import {
  type Candidate,
  type Measurement,
  type Plan,
  type PlannerDevice,
  type PlannerInput,
  planSteps,
} from "./index.ts"

export const MIB = 1024 * 1024
export const GIB = 1024 * MIB

export const device = (name: string, freeBytes: number, totalBytes = freeBytes): PlannerDevice => ({
  name,
  freeBytes,
  totalBytes,
})

/** 32 blocks of 200 MiB and an output layer of 300 MiB: a 7 GB model. */
export const largeModel = {
  unitBytes: [...Array.from({ length: 32 }, () => 200 * MIB), 300 * MIB],
  /** Bytes of KV cache per block and token. */
  kvBytes: 16 * 1024,
  /** Compute buffer of each device that is used. */
  computeBytes: 100 * MIB,
}

/** Two devices of 8 GiB and a host of 16, for `unitBytes`. */
export const inputOf = (
  { unitBytes }: Pick<PlannerInput, "unitBytes">,
  overrides: Partial<PlannerInput> = {},
): PlannerInput => ({
  devices: [device("RPC0", 8 * GIB), device("RPC1", 8 * GIB)],
  host: device("CPU", 16 * GIB),
  unitBytes,
  contextSize: 4096,
  headroomBytes: 64 * MIB,
  mapsWeights: true,
  ...overrides,
})

/** The plan, and what was measured for it. @throws {PlanError} */
export const planWith = (
  input: PlannerInput,
  measure: (candidate: Candidate) => Measurement,
): { readonly plan: Plan; readonly candidates: ReadonlyArray<Candidate> } => {
  const steps = planSteps(input)
  const candidates: Array<Candidate> = []
  let step = steps.next()
  while (!step.done) {
    candidates.push(step.value)
    step = steps.next(measure(step.value))
  }
  return { plan: step.value, candidates }
}

export const planErrorOf = (plan: () => unknown): PlanError => {
  try {
    plan()
  } catch (error) {
    if (error instanceof PlanError) return error
    throw error
  }
  throw new Error("there is a plan where none was expected")
}
