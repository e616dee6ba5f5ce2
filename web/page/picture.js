// From an image's key to what a viewer shows: a signed link, or the tiles of a Deep Zoom image.
//
// Never asks for an original that browsers do not show or that is too large for one. Invariant: a source that was
// prepared ahead holds its picture decoded, so that showing it takes no request. Tiles are asked for like all of the API:
// an `img` would send no token.

import { api, links } from "./core.js";

/** Pixels from which an image is shown in tiles. */
const LARGE_PX = 16_000_000;

/** Bytes from which an image is shown in tiles. */
const LARGE_BYTES = 24 * 1024 * 1024;

/** Whether a record's image has to be shown in tiles. */
export function needsTiles({ format, width_px: width, height_px: height, size_bytes: size }) {
  return format === "tiff" || (width ?? 0) * (height ?? 0) > LARGE_PX || (size ?? 0) > LARGE_BYTES;
}

/** Address of one tile of a Deep Zoom image. */
export function tileAddress({ key, versionId }, level, column, row) {
  const query = new URLSearchParams({ key, level, column, row });
  if (versionId) query.set("version_id", versionId);
  return `/api/image/tile?${query}`;
}

/** The address of the largest picture of the whole image that is a single tile. */
function overviewAddress(source) {
  const { width, height, tile_size: tileSize, max_level: maxLevel } = source.deepZoom;
  const halvings = Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / tileSize)));
  return tileAddress(source, Math.max(0, maxLevel - halvings), 0, 0);
}

/** A signed link to the original; throws an `Error` with the server's reason. */
export async function linkTo({ key, version_id: versionId }, signal, kind = "image") {
  const [link] = await links.of([{ key, version_id: versionId }], kind, { signal });
  if (!link.url) throw new Error(link.problem);
  return link.url;
}

/** Loads and decodes what is at `url`; throws an `Error`. */
async function decoded(url) {
  const picture = new Image();
  picture.draggable = false;
  picture.alt = "";
  picture.src = url;
  try {
    await picture.decode();
  } catch {
    throw new Error("the browser could not load or decode it");
  }
  return picture;
}

/**
 * The source of `image` (of a record): `{url, picture}` with the picture decoded, or, of one that needs tiles,
 * `{deepZoom, key, versionId, overview}` with a small picture of the whole. A link that ran out is asked for once more.
 *
 * @param {any} image
 * @param {{signal?: AbortSignal, deepZoom?: any}} [options]
 */
export async function sourceOf(image, { signal, deepZoom } = {}) {
  if (deepZoom === undefined && needsTiles(image)) {
    deepZoom = (await api.get("/api/image", { key: image.key }, { signal })).deep_zoom;
  }
  if (deepZoom) return tiledSource({ deepZoom, key: image.key, versionId: image.version_id ?? null }, signal);
  const url = await linkTo(image, signal);
  try {
    return { url, picture: await decoded(url) };
  } catch {
    links.forget({ key: image.key, version_id: image.version_id }, "image");
    const again = await linkTo(image, signal);
    return { url: again, picture: await decoded(again) };
  }
}

async function tiledSource(source, signal) {
  const url = await dataUrl(await api.picture(overviewAddress(source), { signal }));
  const overview = await decoded(url);
  const { width, height, tile_size: tileSize } = source.deepZoom;
  // What fits one tile, as most single cells do, is that tile.
  return Math.max(width, height) <= tileSize ? { url, picture: overview } : { ...source, overview };
}

/** A picture as an address of its own; unlike a `blob:` it needs not be given back. */
function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the picture could not be read"));
    reader.readAsDataURL(blob);
  });
}
