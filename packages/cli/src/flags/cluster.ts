/** Servers and devices: what a model is spread over. Names are llama-cli's (llama.cpp v0.5.0, common/arg.cpp) where it has them. */
import { flag, toggle } from "./Flag.ts"
import { choice, integer, integerOr, joined, names, number, numbers, path, text } from "./kinds.ts"

/** All of a model's layers, whatever their number. */
const ALL_LAYERS = 1_000_000

const cluster = "Servers and devices"

export const splitModeNames = ["layer", "tensor"] as const

export const wireNames = ["f32", "bf16"] as const

export const json = toggle({
  name: "json",
  about: "print JSON on stdout, for programs",
  group: "Output",
})

export const rpc = flag({
  name: "rpc",
  env: "LLAMA_ARG_RPC",
  kind: joined(text("A:PORT,…")),
  about:
    "servers to use, such as 10.0.0.2:50052,[fd00::3]:50052; 'none', or no --rpc: this machine alone",
  group: cluster,
})

const tokenFile = flag({
  name: "token-file",
  kind: path,
  about: "file with the secret of servers that ask for one; it is shown to them, and not told",
  group: cluster,
})

/** How servers are known, and how they know this client. */
export const accessFlags = {
  tokenFile,
  tlsFingerprint: flag({
    name: "tls-fingerprint",
    kind: names("HEX,…"),
    about: "speak TLS, to servers whose certificate has one of these, as 'serve --tls' prints them",
    group: cluster,
  }),
  tlsCa: flag({
    name: "tls-ca",
    kind: path,
    about: "speak TLS, to servers with a certificate of this authority (PEM)",
    group: cluster,
  }),
}

export const timeout = flag({
  name: "timeout",
  env: "LLAMA_ARG_TIMEOUT",
  kind: number({ min: 1 }),
  about: "seconds that a server may be silent while it is waited for, before that is an error",
  unset: "for ever; after 5 s stderr says which one it is",
  group: cluster,
})

export const clusterFlags = {
  rpc,
  ...accessFlags,
  timeout,
  remoteBuild: flag({
    name: "remote-build",
    kind: joined(text("A:PORT=OPS,…")),
    about:
      "operations of an older server's ggml, such as 10.0.0.2:50052=95; only needed where a warning asks for it",
    group: cluster,
  }),
  device: flag({
    name: "device",
    aliases: ["-dev"],
    env: "LLAMA_ARG_DEVICE",
    kind: names("NAME,…"),
    about:
      "devices to use besides the CPU; with servers among them (RPC1, or an address) these alone, in this order; 'none' for none of this machine's",
    unset: "all of the servers', every GPU",
    group: cluster,
  }),
  listDevices: toggle({
    name: "list-devices",
    about: "list this machine's and the servers' devices, and do nothing else",
    group: cluster,
  }),
  splitMode: flag({
    name: "split-mode",
    aliases: ["-sm"],
    env: "LLAMA_ARG_SPLIT_MODE",
    kind: choice([...splitModeNames, "auto"], { none: "layer" }),
    about:
      "layer: each device gets whole layers, and they compute one after the other; tensor: each gets a part of every tensor, and they compute at once; auto: what is faster by an estimate, for which links and servers are measured",
    unset: "layer",
    group: cluster,
  }),
  wire: flag({
    name: "wire",
    kind: choice(wireNames),
    about:
      "how activations cross between hosts: f32, as they are computed; bf16, rounded to half the bytes, for slow links to servers of ggml-rpc. 'verify' says what it costs",
    default: "f32",
    group: cluster,
  }),
  tensorSplit: flag({
    name: "tensor-split",
    aliases: ["-ts"],
    env: "LLAMA_ARG_TENSOR_SPLIT",
    kind: numbers("X,Y,…", { min: 0 }, { isInteger: false, separator: /[,/]/ }),
    about: "share of the layers, or of each tensor, for each device, as listed by 'plan'",
    unset: "of layers by free memory, of tensors by how fast servers multiply",
    group: cluster,
  }),
  gpuLayers: flag({
    name: "gpu-layers",
    aliases: ["-ngl", "--n-gpu-layers"],
    env: "LLAMA_ARG_N_GPU_LAYERS",
    kind: integerOr({ min: 0 }, { auto: undefined, all: ALL_LAYERS, "-1": undefined }),
    about: "layers to put on devices, the rest stays on this CPU",
    unset: "auto, all that fit",
    group: cluster,
  }),
  threads: flag({
    name: "threads",
    aliases: ["-t"],
    env: "LLAMA_ARG_THREADS",
    kind: integer({ min: 1, max: 512 }),
    about: "threads of this machine's CPU",
    unset: "one per core",
    group: cluster,
  }),
}
