// Which files a drop or a picker holds: folders are walked, hidden files are left out and counted.
//
// Reads names and sizes only. Invariant: every file is either in the list or counted as left out.

/** What operating systems leave in folders, as `src/object.rs` has it. */
const SYSTEM_FILES = new Set([".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"]);
const SYSTEM_FOLDERS = new Set(["__macosx", ".appledouble", ".fseventsd", ".spotlight-v100", ".temporaryitems", ".trashes", "$recycle.bin", "system volume information", "@eadir"]);

/** Names that begin with a dot are hidden, which those of a system's companions (`._cell.png`) do. */
const isHidden = (name, isFile) => name.startsWith(".") || (isFile ? SYSTEM_FILES : SYSTEM_FOLDERS).has(name.toLowerCase());

/** Files found: `{folders: [{file, path}], loose: [{file, path}], hidden, unreadable: [path]}`; `path` has `/` between its parts. */
function nothing() {
  return { folders: [], loose: [], hidden: 0, unreadable: [] };
}

async function walk(entry, found, isTop) {
  if (isHidden(entry.name, entry.isFile)) {
    found.hidden += 1;
    return;
  }
  const path = entry.fullPath.replace(/^\//, "");
  try {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      (isTop ? found.loose : found.folders).push({ file, path });
      return;
    }
    const reader = entry.createReader();
    // Each call gives some of the entries; an empty one is the end.
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) break;
      for (const each of some) await walk(each, found, false);
    }
  } catch {
    found.unreadable.push(path);
  }
}

/** Files of a drop. Must be called in the event's handler: its data is gone afterwards. */
export function filesOfDrop(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return Promise.resolve(filesOfPicker(transfer.files));
  const found = nothing();
  return (async () => {
    for (const entry of entries) await walk(entry, found, true);
    return found;
  })();
}

/** Files of an `<input type="file">`, with or without `webkitdirectory`. */
export function filesOfPicker(files) {
  const found = nothing();
  for (const file of files) {
    const path = file.webkitRelativePath || file.name;
    if (path.split("/").some((name, at, parts) => isHidden(name, at === parts.length - 1))) found.hidden += 1;
    else (path.includes("/") ? found.folders : found.loose).push({ file, path });
  }
  return found;
}
