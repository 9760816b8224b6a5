/** What the planner is told and what it makes of it. All of it is data. */

import type { Pool } from "./pools.ts"

/** A device that can hold layers, remote or local. */
export interface PlannerDevice {
  /** `RPC0`, `CUDA0`. */
  readonly name: string
  readonly freeBytes: number
  readonly totalBytes: number
}

/** Bytes that one candidate takes on one device. */
export interface DeviceUse {
  readonly weightBytes: number
  /** KV cache and recurrent state. */
  readonly contextBytes: number
  /** Compute buffers. */
  readonly computeBytes: number
}

/** A candidate: how many units each device gets, and the context length. */
export interface Candidate {
  readonly unitCounts: ReadonlyArray<number>
  readonly contextSize: number
  /**
   * How much of each tensor each device gets; they add up to 1. Devices have parts of the same units then, as many as their counts
   * say. Absent: each has whole units.
   */
  readonly shares?: ReadonlyArray<number>
}

/** Units that are not on this host's CPU. */
export const unitsOnDevices = ({ unitCounts, shares }: Candidate): number =>
  shares === undefined ? sum(unitCounts) : Math.max(0, ...unitCounts)

/** What a candidate takes: one entry a device, and the CPU of this host. */
export interface Measurement {
  readonly devices: ReadonlyArray<DeviceUse>
  readonly host: DeviceUse
  /**
   * Of the host's weights, bytes in the file's own layout: these can be mapped from the file. Repacked
   * ones (CPU_REPACK) are copies and need memory.
   */
  readonly hostFileLayoutBytes: number
  /** Contexts that the candidate has, each with a table of cells on this host; 1. */
  readonly groupCount?: number | undefined
}

export interface PlannerInput {
  readonly devices: ReadonlyArray<PlannerDevice>
  /** Memory that several of the devices, or they and this host, have in common; see `poolsOf`. */
  readonly pools?: ReadonlyArray<Pool>
  /** Memory of this host, for layers on its CPU, the input embedding and host buffers. */
  readonly host: PlannerDevice
  /** Exact weight bytes of each unit: the blocks, then the output layer. */
  readonly unitBytes: ReadonlyArray<number>
  /** The wanted proportions, one a device; undefined: of layers by free memory, of tensors by `speeds`. */
  readonly tensorSplit?: ReadonlyArray<number> | undefined
  /** Every tensor is cut over the devices, instead of layers being split. Needs two devices or more. */
  readonly cutsTensors?: boolean | undefined
  /** How fast each device computes, in any unit; undefined: all are taken to be as fast. */
  readonly speeds?: ReadonlyArray<number> | undefined
  /** How many units go to devices; undefined: all, fewer when they do not fit. */
  readonly gpuLayers?: number | undefined
  /** Tokens. */
  readonly contextSize: number
  /** Whether the context length may shrink to make the model fit, and how far. */
  readonly minContextSize?: number | undefined
  /** Bytes that stay free on every device and on this host. */
  readonly headroomBytes: number
  /** Weights on the CPU are mapped from the file, which needs no memory of its own to succeed. */
  readonly mapsWeights: boolean
}

/** A device's share of a plan. */
export interface DevicePlan extends DeviceUse {
  readonly name: string
  /** Index of the first unit, and how many follow; a unit count of 0 means the device is not used. */
  readonly firstUnit: number
  readonly unitCount: number
  readonly freeBytes: number
  readonly totalBytes: number
  /** Free bytes once the model is loaded. */
  readonly freeAfterBytes: number
  /** How much of each tensor it has, where tensors are cut. */
  readonly share?: number
}

/** A memory that several devices of a plan draw from. */
export interface SharedMemory {
  readonly devices: ReadonlyArray<string>
  /** Whether this host's own memory is that, too. */
  readonly hasHost: boolean
  readonly freeBytes: number
}

export interface Plan {
  /** Whether devices get whole layers, or a part of every tensor. */
  readonly splitMode: "layer" | "tensor"
  readonly devices: ReadonlyArray<DevicePlan>
  /** The CPU of this host: input embedding, and the units that no device got. */
  readonly host: DevicePlan
  /** What was counted once; empty as a rule. */
  readonly shared: ReadonlyArray<SharedMemory>
  /** Devices that are not used because there are more than one model can be on; empty as a rule. */
  readonly leftOut: ReadonlyArray<string>
  /** Blocks and the output layer. */
  readonly unitCount: number
  readonly contextSize: number
  /** The context length that was asked for, when it had to shrink. */
  readonly wantedContextSize?: number
}

export const totalOf = (use: DeviceUse): number =>
  use.weightBytes + use.contextBytes + use.computeBytes

export const sum = (values: ReadonlyArray<number>): number => values.reduce((a, b) => a + b, 0)
