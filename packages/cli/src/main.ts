#!/usr/bin/env bun
/** `ggml-rpc`: the program from its bundle, which starts in half the time, or from its sources. */
import { freshBundle } from "./bundle.ts"

const { main } = (await import(freshBundle() ?? "./program.ts")) as typeof import("./program.ts")
process.exit(await main(process.argv.slice(2)))
