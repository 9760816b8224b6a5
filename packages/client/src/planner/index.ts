export { planSteps } from "./plan.ts"
export { poolsOf } from "./pools.ts"
export { firstCandidate, splitUnits } from "./split.ts"
export type {
  Candidate,
  DevicePlan,
  DeviceUse,
  Measurement,
  Plan,
  PlannerDevice,
  PlannerInput,
  SharedMemory,
} from "./types.ts"
