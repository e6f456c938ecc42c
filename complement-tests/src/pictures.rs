//! Pictures that are not what they seem.

/// A small PNG that says to have 60,000 × 60,000 pixels.
pub fn vast_picture() -> Vec<u8> {
    let mut header = [60_000_u32.to_be_bytes(); 2].concat();
    // 8 bits, three colours; compressed, filtered and ordered as usual.
    header.extend([8, 2, 0, 0, 0]);
    let parts: [(&[u8; 4], &[u8]); 3] = [(b"IHDR", &header), (b"IDAT", &[]), (b"IEND", &[])];
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, content) in parts {
        let named = [name.as_slice(), content].concat();
        let length = u32::try_from(content.len()).expect("a few bytes");
        bytes.extend(length.to_be_bytes());
        bytes.extend(&named);
        bytes.extend(checksum(&named).to_be_bytes());
    }
    bytes
}

/// CRC-32, as PNG has it.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
