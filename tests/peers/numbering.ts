#!/usr/bin/env bun
/**
 * The numbers of ops, types and commands of each release, by its headers. A small program, compiled
 * against them and the release's libraries, holds what is read from the text to what the compiler sees.
 *
 * `bun tests/peers/numbering.ts` prints them; `--write` writes all releases' to the protocol package's
 * fixtures.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Data } from "effect"
import { runProcess } from "./process.ts"
import { ensureReleaseLibraries, ensureReleaseSource, type Release, releases } from "./releases.ts"

/** A type that a release has; sizes in bytes, `blockSize` in elements. */
export interface NumberedType {
  readonly id: number
  /** Without `GGML_TYPE_`. */
  readonly name: string
  readonly blockSize: number
  readonly typeSize: number
}

/** The place in a list is the number; names go without their prefix, such as `GGML_OP_`. */
export interface Numbering {
  /** llama.cpp's tag. */
  readonly release: string
  /** `RPC_PROTO_*_VERSION`. */
  readonly protocol: string
  readonly opCount: number
  readonly ops: ReadonlyArray<string>
  readonly unaryOps: ReadonlyArray<string>
  readonly gluOps: ReadonlyArray<string>
  /** By id; those that were removed are missing. */
  readonly types: ReadonlyArray<NumberedType>
  readonly commands: ReadonlyArray<string>
}

/** A release's headers are not as this script reads them; the message says which and what. */
export class NumberingError extends Data.TaggedError("NumberingError")<{
  readonly release: string
  readonly message: string
}> {}

const root = join(import.meta.dir, "..", "..")
export const fixturePath = join(root, "packages", "protocol", "fixtures", "numbering.json")

/** Key in the fixture, such as `2.0.0/90`: a version alone does not tell the numbers. */
export const numberingKey = ({ protocol, opCount }: Numbering): string => `${protocol}/${opCount}`

/** An enum of C: its text, and its enumerators without prefix and without the closing `COUNT`. */
interface ParsedEnum {
  readonly text: string
  readonly prefix: string
  readonly names: ReadonlyArray<string>
}

/** @throws {NumberingError} when there is no such enum, or not of this kind */
export const parseEnum = (
  source: string,
  name: string,
  prefix: string,
  release: Release,
): ParsedEnum => {
  const bare = source.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "")
  const match = new RegExp(String.raw`\benum ${name}\s*\{([^}]*)\}`).exec(bare)
  const names = [...(match?.[1] ?? "").matchAll(/\b[A-Z]\w*/g)].map(([identifier]) => identifier)
  if (
    match === null ||
    names.at(-1) !== `${prefix}COUNT` ||
    !names.every((identifier) => identifier.startsWith(prefix))
  ) {
    throw new NumberingError({
      release: release.llamaVersion,
      message: `llama.cpp ${release.llamaVersion} has no enum ${name} of ${prefix}… that ends with ${prefix}COUNT.`,
    })
  }
  return {
    text: `${match[0]};`,
    prefix,
    names: names.slice(0, -1).map((identifier) => identifier.slice(prefix.length)),
  }
}

/** Reads a release's numbers, fetching it first where needed; half a second of compiling. */
export const readNumbering = async (release: Release): Promise<Numbering> => {
  const source = await ensureReleaseSource(release)
  const header = readFileSync(join(source, "ggml", "include", "ggml.h"), "utf8")
  const rpc = readFileSync(join(source, "ggml", "src", "ggml-rpc", "ggml-rpc.cpp"), "utf8")
  const ops = parseEnum(header, "ggml_op", "GGML_OP_", release)
  const unaryOps = parseEnum(header, "ggml_unary_op", "GGML_UNARY_OP_", release)
  const gluOps = parseEnum(header, "ggml_glu_op", "GGML_GLU_OP_", release)
  const types = parseEnum(header, "ggml_type", "GGML_TYPE_", release)
  const commands = parseEnum(rpc, "rpc_cmd", "RPC_CMD_", release)

  const compiled = await runAgainst(
    release,
    source,
    programText([ops, unaryOps, gluOps, commands], types, commands),
  )
  requireSameOps(ops.names, compiled.opNames, release)
  return {
    release: release.llamaVersion,
    protocol: compiled.protocol,
    opCount: compiled.opCount,
    ops: ops.names,
    unaryOps: unaryOps.names,
    gluOps: gluOps.names,
    types: listedTypes(compiled, release),
    commands: commands.names,
  }
}

/** What the compiled program prints. */
interface Compiled {
  readonly protocol: string
  readonly opCount: number
  /** Every id below the count; no name where the enum lists none. */
  readonly types: ReadonlyArray<NumberedType>
  /** What the library calls the ops. */
  readonly opNames: ReadonlyArray<string>
}

/**
 * A program that compiles only if each enumerator of `counted` has the number of its place, and the count is
 * theirs, and that prints what the text does not tell.
 */
const programText = (
  counted: ReadonlyArray<ParsedEnum>,
  types: ParsedEnum,
  commands: ParsedEnum,
): string => {
  const asserts = counted.flatMap(({ prefix, names }) => [
    ...names.map((name, id) => `static_assert(${prefix}${name} == ${id}, "${name}");`),
    `static_assert(${prefix}COUNT == ${names.length}, "${prefix}COUNT");`,
  ])
  const cases = types.names.map((name) => `        case GGML_TYPE_${name}: return "${name}";`)
  return `
#include "ggml-rpc.h"
#include "ggml.h"
#include <cstdio>
${commands.text}
${asserts.join("\n")}
static const char * listed_name(int type) {
    switch (type) {
${cases.join("\n")}
        default: return "";
    }
}
int main() {
    std::printf("{\\"protocol\\":\\"%d.%d.%d\\",\\"opCount\\":%d,\\"types\\":[",
        RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION, RPC_PROTO_PATCH_VERSION, (int) GGML_OP_COUNT);
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const ggml_type type = (ggml_type) i;
        std::printf("%s{\\"id\\":%d,\\"name\\":\\"%s\\",\\"blockSize\\":%lld,\\"typeSize\\":%zu}", i == 0 ? "" : ",",
            i, listed_name(i), (long long) ggml_blck_size(type), ggml_type_size(type));
    }
    std::printf("],\\"opNames\\":[");
    for (int i = 0; i < GGML_OP_COUNT; i++) {
        std::printf("%s\\"%s\\"", i == 0 ? "" : ",", ggml_op_name((ggml_op) i));
    }
    std::printf("]}\\n");
}
`
}

const runAgainst = async (release: Release, source: string, text: string): Promise<Compiled> => {
  const libraries = await ensureReleaseLibraries(release)
  const work = mkdtempSync(join(tmpdir(), "numbering-"))
  try {
    const program = join(work, "numbering")
    writeFileSync(`${program}.cpp`, text)
    const compiled = await runProcess([
      ...[process.env.CXX ?? "g++", "-std=c++17", "-w", `-I${join(source, "ggml", "include")}`],
      ...[`${program}.cpp`, libraries.ggmlBase, `-Wl,-rpath,${libraries.dir}`, "-o", program],
    ])
    if (compiled.exitCode !== 0) {
      throw new NumberingError({
        release: release.llamaVersion,
        message: `The numbers read from the headers of llama.cpp ${release.llamaVersion} are not the compiler's:\n${compiled.stderr.slice(-4000)}`,
      })
    }
    const { stdout } = await runProcess([program])
    return JSON.parse(stdout)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** The library was built from these headers only if it calls the ops the same. */
const requireSameOps = (
  names: ReadonlyArray<string>,
  libraryNames: ReadonlyArray<string>,
  release: Release,
): void => {
  const id = names.findIndex((name, index) => libraryNames[index] !== name)
  if (id === -1) return
  throw new NumberingError({
    release: release.llamaVersion,
    message: `Op ${id} is ${names[id]} in the headers of llama.cpp ${release.llamaVersion} and ${libraryNames[id]} in its library.`,
  })
}

/** The types that the enum lists, once each other id below the count is seen to be a removed type. */
const listedTypes = (compiled: Compiled, release: Release): ReadonlyArray<NumberedType> => {
  const unlisted = compiled.types.filter(({ name, blockSize }) => name === "" && blockSize !== 0)
  if (unlisted.length > 0) {
    throw new NumberingError({
      release: release.llamaVersion,
      message: `The library of llama.cpp ${release.llamaVersion} has types that ggml.h does not list: ${unlisted.map(({ id }) => id).join(", ")}.`,
    })
  }
  return compiled.types.filter(({ name }) => name !== "")
}

/** A line a field, so that a difference shows where it is. */
export const fixtureText = (numberings: ReadonlyArray<Numbering>): string => {
  const entries = numberings.map((numbering) => {
    const fields = Object.entries(numbering).map(
      ([field, value]) => `    ${JSON.stringify(field)}: ${JSON.stringify(value)}`,
    )
    return `  ${JSON.stringify(numberingKey(numbering))}: {\n${fields.join(",\n")}\n  }`
  })
  return `{\n${entries.join(",\n")}\n}\n`
}

if (import.meta.main) {
  const numberings: Array<Numbering> = []
  for (const release of releases) numberings.push(await readNumbering(release))
  const text = fixtureText(numberings)
  if (process.argv.includes("--write")) {
    writeFileSync(fixturePath, text)
    console.error(`wrote ${fixturePath}`)
  } else {
    process.stdout.write(text)
  }
}
