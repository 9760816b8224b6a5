import type { Address } from "@ggml-rpc/native/bindings"
import { formatVersion } from "@ggml-rpc/protocol"
import type { RpcConnection } from "../connection/RpcConnection.ts"
import { newStoredGraphs, type StoredGraphs } from "./StoredGraphs.ts"

/** One device of one server. */
export interface RemoteDevice {
  /** Address of the ggml device. */
  readonly address: Address
  /** `RPC0`, `RPC1`, … over all servers, as llama.cpp names them. */
  readonly name: string
  readonly endpoint: string
  /** The address behind the endpoint's name; "" where it is not known. */
  readonly serverAddress: string
  /** Index at its server. */
  readonly deviceIndex: number
  /** The server's protocol, such as `7.0.0`. */
  readonly version: string
  /** Which memory it draws from, in hex, where its server tells. */
  readonly domain: string | undefined
}

/** What this process knows of it; its place in the list of all is the number that the shim's callbacks give. */
export interface DeviceState extends RemoteDevice {
  readonly connection: RpcConnection
  readonly connectionIndex: number
  readonly storedGraphs: StoredGraphs
  /** Bytes of tensor data sent since the last graph. */
  inputBytes: number
  memoryRead: DeviceMemory | undefined
  memoryReadAt: number
}

export interface DeviceMemory {
  readonly freeBytes: number
  readonly totalBytes: number
}

export const newDeviceState = (
  device: Pick<RemoteDevice, "address" | "name" | "deviceIndex" | "domain">,
  connection: RpcConnection,
  connectionIndex: number,
): DeviceState => ({
  ...device,
  endpoint: connection.endpoint,
  serverAddress: connection.address,
  version: formatVersion(connection.dialect.version),
  connection,
  connectionIndex,
  storedGraphs: newStoredGraphs(connection.dialect.features.storedGraphs),
  inputBytes: 0,
  memoryRead: undefined,
  memoryReadAt: Number.NEGATIVE_INFINITY,
})
