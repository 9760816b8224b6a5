/** Sessions of one client at several servers, linked as a client of ours links them. */
import {
  AllReduceFlag,
  ExtensionCommand,
  encodeExtensionRequest,
  extensionCommands,
  LINK_KEY_BYTES,
  LinkStatus,
  MAX_PARTS,
  type RpcTensor,
} from "@ggml-rpc/protocol"
import { TestClient, type TestClientOptions } from "./TestClient.ts"

type Ask = "LINK_EXPECT" | "LINK_DIAL" | "LINK_AWAIT"

export const newKey = (): Uint8Array => crypto.getRandomValues(new Uint8Array(LINK_KEY_BYTES))

/** Asks, and gives the `LinkStatus` that is answered. */
export const askLink = async <N extends Ask>(
  client: TestClient,
  name: N,
  value: Parameters<typeof encodeExtensionRequest<N>>[1],
): Promise<number> => {
  client.write(encodeExtensionRequest(name, value))
  const answer = await client.read(8 + extensionCommands[name].response.minSizeBytes)
  return answer[8]!
}

/** Where the server of each place is reached by the others. */
export interface LinkedServer {
  readonly port: number
  readonly host?: string
}

/** Links `rank` (which dials) and `peer`; the statuses of the three steps. */
export const linkPair = async (
  clients: readonly TestClient[],
  servers: readonly LinkedServer[],
  rank: number,
  peer: number,
  key = newKey(),
): Promise<readonly number[]> => {
  const worldSize = clients.length
  const { port, host = "127.0.0.1" } = servers[peer]!
  const expected = await askLink(clients[peer]!, "LINK_EXPECT", {
    ...{ rank: peer, worldSize, peer: rank, key },
  })
  const dialled = await askLink(clients[rank]!, "LINK_DIAL", {
    ...{ rank, worldSize, peer, key, port, host },
  })
  if (dialled !== LinkStatus.DONE) return [expected, dialled]
  return [expected, dialled, await askLink(clients[peer]!, "LINK_AWAIT", { peer: rank })]
}

/** A client's connections to servers that are linked with each other. */
export const linkedClients = async (
  servers: readonly LinkedServer[],
  options?: TestClientOptions,
): Promise<readonly TestClient[]> => {
  const clients = await Promise.all(servers.map(({ port }) => TestClient.connect(port, options)))
  for (let peer = 1; peer < servers.length; peer++) {
    for (let rank = 0; rank < peer; rank++) {
      const statuses = await linkPair(clients, servers, rank, peer)
      if (statuses.some((status) => status !== LinkStatus.DONE)) {
        throw new Error(`servers ${rank} and ${peer} are not linked: ${statuses}`)
      }
    }
  }
  return clients
}

export const allReduce = (
  client: TestClient,
  tensor: RpcTensor,
  flags: number = AllReduceFlag.COUNTS,
): void => client.write(encodeExtensionRequest("ALL_REDUCE", { flags, tensor }))

/** The same of parts of which a server may have several: `places` has the place of each one's server, `tensors` this server's. */
export const allReduceDevices = (
  client: TestClient,
  places: readonly number[],
  tensors: readonly RpcTensor[],
  { flags = 0, serverCount = new Set(places).size, counting = 0xffff } = {},
): void => {
  const all = new Uint8Array(MAX_PARTS)
  all.set(places)
  const head = { flags, serverCount, partCount: places.length, counting, places: all }
  client.write(encodeExtensionRequest("ALL_REDUCE_DEVICES", { ...head, tensors }))
}

export const linkFree = (client: TestClient): void =>
  client.write(encodeExtensionRequest("LINK_FREE", {}))

/** The first bytes of what one server says to another on a link. */
export const LINK_KEY = ExtensionCommand.LINK_KEY
