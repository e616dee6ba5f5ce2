// Which files a drop or a picker holds: folders are walked, hidden files are left out and counted.
//
// Reads names and sizes only. Invariant: every file is either in the list or counted as left out.

/** What systems put into folders by themselves. */
const LITTER = new Set(["thumbs.db", "desktop.ini", "__macosx"]);

const isHidden = (name) => name.startsWith(".") || LITTER.has(name.toLowerCase());

/** Files found: `{folders: [{file, path}], loose: [{file, path}], hidden, unreadable: [path]}`; `path` has `/` between its parts. */
function nothing() {
  return { folders: [], loose: [], hidden: 0, unreadable: [] };
}

async function walk(entry, found, isTop) {
  if (isHidden(entry.name)) {
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
    if (path.split("/").some(isHidden)) found.hidden += 1;
    else (path.includes("/") ? found.folders : found.loose).push({ file, path });
  }
  return found;
}

/** The slide of a name: its folder part. */
export function slideOf(name) {
  const at = name.lastIndexOf("/");
  return at < 0 ? "" : name.slice(0, at);
}
