import { HOST, leastOf, leftInPools } from "./pools.ts"
import { firstUnits } from "./split.ts"
import {
  type Candidate,
  type DevicePlan,
  type DeviceUse,
  type Measurement,
  type Plan,
  type PlannerDevice,
  type PlannerInput,
  totalOf,
  unitsOnDevices,
} from "./types.ts"

/** What a candidate becomes that fits. */
export const planOf = (
  input: PlannerInput,
  candidate: Candidate,
  measured: Measurement,
): Omit<Plan, "leftOut"> => {
  const unitCount = input.unitBytes.length
  const { shares } = candidate
  const onDevices = unitsOnDevices(candidate)
  const firsts = shares
    ? candidate.unitCounts.map(() => unitCount - onDevices)
    : firstUnits(unitCount, candidate.unitCounts)
  const left = leftInPools(input, measured.devices.map(totalOf), totalOf(measured.host))
  const planFor = (
    member: number,
    device: PlannerDevice,
    use: DeviceUse,
    firstUnit: number,
    count: number,
  ): DevicePlan => ({
    name: device.name,
    firstUnit,
    unitCount: count,
    weightBytes: use.weightBytes,
    contextBytes: use.contextBytes,
    computeBytes: use.computeBytes,
    freeBytes: device.freeBytes,
    totalBytes: device.totalBytes,
    freeAfterBytes: Math.max(0, leastOf(input, left, member, device.freeBytes - totalOf(use))),
  })
  return {
    splitMode: shares ? "tensor" : "layer",
    devices: input.devices.map((device, index) => ({
      ...planFor(
        index,
        device,
        measured.devices[index]!,
        firsts[index]!,
        candidate.unitCounts[index]!,
      ),
      ...(shares && { share: shares[index]! }),
    })),
    host: planFor(HOST, input.host, measured.host, 0, unitCount - onDevices),
    shared: (input.pools ?? []).flatMap(({ members, freeBytes, isInner }) => {
      const devices = members.flatMap((index) => input.devices[index]?.name ?? [])
      return isInner ? [] : [{ devices, hasHost: members.includes(HOST), freeBytes }]
    }),
    unitCount,
    contextSize: candidate.contextSize,
    ...(candidate.contextSize === input.contextSize
      ? {}
      : { wantedContextSize: input.contextSize }),
  }
}
