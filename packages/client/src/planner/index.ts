export { planSteps } from "./plan.ts"
export { firstCandidate, splitUnits } from "./split.ts"
export type {
  Candidate,
  DevicePlan,
  DeviceUse,
  Measurement,
  Plan,
  PlannerDevice,
  PlannerInput,
} from "./types.ts"
