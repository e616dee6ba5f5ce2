"""Image files that the tests need and that would be too large to keep.

Never reads a file. Invariant: the same arguments give the same bytes.
"""

import struct


def tiff(width, height):
    """An uncompressed RGB TIFF: stripes of colour, so that a tile of it is not one colour."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + 2 + 10 * 12 + 4), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8 + 2 + 10 * 12 + 4 + 6), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, width * height * 3), (284, 3, 1, 1),
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, count, value in entries:
        head += struct.pack("<HHI", tag, kind, count)
        head += struct.pack("<HH", value, 0) if (kind, count) == (3, 1) else struct.pack("<I", value)
    head += struct.pack("<I", 0) + struct.pack("<HHH", 8, 8, 8)
    row = b"".join(bytes((200, x // 8 % 256, 90 + x // 64 % 2 * 100)) for x in range(width))
    return head + row * height
