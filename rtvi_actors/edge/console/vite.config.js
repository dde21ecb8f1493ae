import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

// One page out of src/ into dist/, which the server looks for. Every file is served by the server itself under a strict
// Content-Security-Policy: nothing is inlined as data: or blob:.
export default defineConfig({
  root: "src",
  base: "./",
  resolve: {
    // The transport's default media manager loads Daily's call machine from Daily's CDN. Ours (media.js) does not need it.
    alias: { "@daily-co/daily-js": fileURLToPath(new URL("src/no-daily.js", import.meta.url)) },
  },
  build: {
    outDir: "../dist",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: false,
    target: "es2022",
  },
});
