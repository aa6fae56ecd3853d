/* The decoder of lz4.h, for processors whose ways to repeat bytes are LZ4(lz4_match_16) and LZ4(lz4_match_on). */

/* Decodes one block into dst, of which `size` bytes are wanted and `slack` more may be overwritten.
 * Returns the bytes made, or -1 where the stream is corrupt; touches nothing outside the buffers. */
LZ4_TARGET static ptrdiff_t LZ4(lz4_decode_block)(const uint8_t *src, size_t n, uint8_t *dst, size_t size,
                                                  size_t slack) {
    const uint8_t *const end = src + n, *const src_safe = n > LZ4_SHORT ? end - LZ4_SHORT : src;
    uint8_t *out = dst, *const out_end = dst + size;
    const uint8_t *const out_safe = LZ4_LITTLE_ENDIAN && size > LZ4_SHORT ? out_end - LZ4_SHORT : dst;
    for (;;) {
        if (UNLIKELY(src >= end)) return -1;
        const uint8_t token = *src++;
        size_t literals = token >> 4, length = token & 15;
        if (LIKELY(literals < 15 && src < src_safe && out < out_safe)) {
            copy16(out, src);
        } else {
            if (literals == 15 && !lz4_length(&src, end, &literals)) return -1;
            const size_t left = (size_t)(out_end - out), more = (size_t)(end - src);
            if (UNLIKELY(literals > left || literals > more)) return -1;
            lz4_literals(out, src, literals, left + slack, more);
            if (more == literals) return out + literals - dst;
            if (UNLIKELY(more - literals < 2)) return -1;
        }
        out += literals;
        src += literals;
        const size_t distance = src[0] | (size_t)src[1] << 8;
        src += 2;
        if (UNLIKELY(distance == 0 || distance > (size_t)(out - dst))) return -1;
        const int begun = out < out_safe;
        if (LIKELY(begun)) LZ4(lz4_match_16)(out, distance);
        if (LIKELY(begun && length <= 12)) {
            out += length + 4;
            continue;
        }
        if (length == 15 && !lz4_length(&src, end, &length)) return -1;
        length += 4;
        const size_t left = (size_t)(out_end - out);
        if (UNLIKELY(length > left)) return -1;
        if (LIKELY(begun && left + slack >= length + 64))
            LZ4(lz4_match_on)(out, distance, length);
        else
            for (size_t i = 0; i < length; i++) out[i] = out[i - distance];
        out += length;
    }
}
