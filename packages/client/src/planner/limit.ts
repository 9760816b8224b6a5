/** How many devices one model can be on. */
import type { PlannerInput } from "./types.ts"

/** ggml's scheduler has places for 16 backends (ggml-backend.cpp `GGML_SCHED_MAX_BACKENDS`, v0.5.0), and this host's CPU is one. */
export const MAX_DEVICES = 15

/** Indexes of the devices that get nothing because there are more than can be used: those with the least free memory. */
export const leftOutOf = ({
  devices,
  pools = [],
  tensorSplit,
}: PlannerInput): ReadonlySet<number> => {
  if (tensorSplit !== undefined || devices.length <= MAX_DEVICES) return new Set()
  // Devices of one memory were asked one after the other, and what others took of it meanwhile makes none of them better.
  const free = devices.map(({ freeBytes }, index) => {
    const shared = pools.filter(({ members }) => members.includes(index))
    return shared.length === 0 ? freeBytes : Math.min(...shared.map((pool) => pool.freeBytes))
  })
  const byFree = [...devices.keys()].sort((a, b) => free[b]! - free[a]!)
  return new Set(byFree.slice(MAX_DEVICES))
}

/** As if these devices had no memory, of their own or shared. */
export const without = (input: PlannerInput, leftOut: ReadonlySet<number>): PlannerInput =>
  leftOut.size === 0
    ? input
    : {
        ...input,
        devices: input.devices.map((device, index) =>
          leftOut.has(index) ? { ...device, freeBytes: 0 } : device,
        ),
        pools: (input.pools ?? [])
          .map((pool) => ({ ...pool, members: pool.members.filter((at) => !leftOut.has(at)) }))
          .filter(({ members }) => members.length > 1),
      }
