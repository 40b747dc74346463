package imaging

import (
	"fmt"
	"strings"
)

// Format is an image format that this package reads.
type Format struct {
	Name        string   // in Info.Format
	DisplayName string   // in messages
	MediaTypes  []string // registered by IANA; the first is the usual one
	Extensions  []string // of file names, in lower case
}

// The supported formats, as in Info.Format.
const (
	formatJPEG = "jpeg"
	formatPNG  = "png"
	formatGIF  = "gif"
	formatWebP = "webp"
	formatBMP  = "bmp"
	formatTIFF = "tiff"
	formatHEIC = "heic"
	formatAVIF = "avif"
)

var formats = [...]Format{
	{formatJPEG, "JPEG", []string{"image/jpeg"}, []string{".jpg", ".jpeg"}},
	{formatPNG, "PNG", []string{"image/png"}, []string{".png"}},
	{formatGIF, "GIF", []string{"image/gif"}, []string{".gif"}},
	{formatWebP, "WebP", []string{"image/webp"}, []string{".webp"}},
	{formatBMP, "BMP", []string{"image/bmp"}, []string{".bmp"}},
	{formatTIFF, "TIFF", []string{"image/tiff"}, []string{".tif", ".tiff"}},
	{formatHEIC, "HEIC", []string{"image/heic", "image/heif"}, []string{".heic", ".heif"}},
	{formatAVIF, "AVIF", []string{"image/avif"}, []string{".avif"}},
}

// Formats returns the supported formats. Files are recognized by content; nothing depends on their names.
func Formats() []Format { return append([]Format(nil), formats[:]...) }

// FormatList lists the supported formats for a message, with the given word before the last one: "JPEG, PNG,
// … or AVIF".
func FormatList(conjunction string) string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.DisplayName
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + conjunction + " " + names[last]
}

// displayName returns the DisplayName of a format.
func displayName(name string) string {
	for i := range formats {
		if formats[i].Name == name {
			return formats[i].DisplayName
		}
	}
	return name
}

// formatOf detects an image's format from its first bytes.
func formatOf(data []byte) (string, error) {
	switch {
	case len(data) == 0:
		return "", fmt.Errorf("%w: send a %s image", ErrEmpty, FormatList("or"))
	case hasPrefix(data, "\xff\xd8\xff"):
		return formatJPEG, nil
	case hasPrefix(data, pngSignature):
		return formatPNG, nil
	case hasPrefix(data, "GIF87a"), hasPrefix(data, "GIF89a"):
		return formatGIF, nil
	case hasPrefix(data, "RIFF") && len(data) >= 12 && string(data[8:12]) == "WEBP":
		return formatWebP, nil
	case hasPrefix(data, "BM"):
		return formatBMP, nil
	case hasPrefix(data, "II*\x00"), hasPrefix(data, "MM\x00*"):
		if name := rawFormat(data); name != "" {
			return "", unreadable(name)
		}
		return formatTIFF, nil
	}
	if format := heifFormat(data); format != "" {
		return format, nil
	}
	if name := otherFormat(data); name != "" {
		return "", unreadable(name)
	}
	return "", fmt.Errorf("%w: the data isn't a %s image", ErrFormat, FormatList("or"))
}

// unreadable returns the error for a file of a known kind that this package doesn't read.
func unreadable(name string) error {
	return fmt.Errorf("%w: %s files aren't supported; convert the image to JPEG or PNG", ErrFormat, name)
}

func hasPrefix(data []byte, prefix string) bool {
	return len(data) >= len(prefix) && string(data[:len(prefix)]) == prefix
}

// otherFormat returns the name of a common unsupported format for the error message, or "".
func otherFormat(data []byte) string {
	for _, f := range []struct {
		at          int
		magic, name string
	}{
		{0, "II+\x00", "BigTIFF"},
		{0, "MM\x00+", "BigTIFF"},
		{0, "\x00\x00\x00\x0cjP  ", "JPEG 2000"},
		{0, "\xff\x4f\xff\x51", "JPEG 2000"},
		{0, "\x00\x00\x00\x0cJXL ", "JPEG XL"},
		{0, "\xff\x0a", "JPEG XL"},
		{0, "II\xbc\x01", "JPEG XR"},
		{0, "8BPS", "Photoshop (PSD)"},
		{0, "\x00\x00\x01\x00", "icon (ICO)"},
		{0, "\x00\x00\x02\x00", "cursor (CUR)"},
		{0, "icns", "icon (ICNS)"},
		{0, "%PDF-", "PDF"},
		{0, "%!PS", "PostScript"},
		{0, "\xc5\xd0\xd3\xc6", "PostScript"},
		{0, "gimp xcf", "GIMP (XCF)"},
		{0, "DDS ", "DirectDraw (DDS)"},
		{0, "\x76\x2f\x31\x01", "OpenEXR"},
		{0, "#?RADIANCE", "Radiance (HDR)"},
		{0, "FUJIFILMCCD-RAW", "camera raw (RAF)"},
		{0, "IIRO", "camera raw (ORF)"},
		{0, "IIRS", "camera raw (ORF)"},
		{0, "MMOR", "camera raw (ORF)"},
		{0, "IIU\x00", "camera raw (RW2)"},
		{0, "FOVb", "camera raw (X3F)"},
		{4, "ftypcrx ", "camera raw (CR3)"},
		{4, "ftypjxl ", "JPEG XL"},
		{4, "ftyp", "video (MP4)"},
		{4, "moov", "video (QuickTime)"},
		{4, "mdat", "video (QuickTime)"},
		{0, "\x1aE\xdf\xa3", "video (Matroska or WebM)"},
		{8, "AVI ", "video (AVI)"},
		{0, "FLV\x01", "video (FLV)"},
		{0, "\x00\x00\x01\xba", "video (MPEG)"},
		{0, "\x00\x00\x01\xb3", "video (MPEG)"},
	} {
		if len(data) > f.at && hasPrefix(data[f.at:], f.magic) {
			return f.name
		}
	}
	// Portable anymap: P1 to P7 and white space.
	if len(data) > 2 && data[0] == 'P' && data[1] >= '1' && data[1] <= '7' && strings.IndexByte(" \t\r\n#", data[2]) >= 0 {
		return "Netpbm"
	}
	text := strings.ToLower(strings.TrimLeft(string(data[:min(len(data), 1024)]), "\xef\xbb\xbf \t\r\n"))
	switch {
	case strings.HasPrefix(text, "<svg"), strings.HasPrefix(text, "<?xml") && strings.Contains(text, "<svg"):
		return "SVG"
	case strings.HasPrefix(text, "<!doctype html"), strings.HasPrefix(text, "<html"):
		return "HTML"
	}
	return ""
}
