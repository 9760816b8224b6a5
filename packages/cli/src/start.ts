/** The published program, in the Bun that launcher.sh found. */
import { main } from "./program.ts"

process.exit(await main(process.argv.slice(2)))
