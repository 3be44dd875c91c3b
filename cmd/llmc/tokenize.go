package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"llmc/eval"
	"llmc/internal/fault"
	"llmc/model"
)

// tokenizeOptions are the flags of "llmc tokenize".
type tokenizeOptions struct {
	prompt string
	text   string
	noBOS  bool
}

func newTokenizeCommand(global *globalOptions) *cobra.Command {
	o := &tokenizeOptions{}
	cmd := &cobra.Command{
		Use:   "tokenize MODEL (-p TEXT | --text FILE)",
		Short: "Print the token ids of a text on one line",
		Example: `  llmc tokenize model/ -p "Once upon a time"
  llmc tokenize model.gguf --text test.txt > ids.txt
  llmc tokenize demo -p "Hello" --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed("prompt")
			if given == (o.text != "") {
				return fault.Usage("give either -p TEXT or --text FILE")
			}
			return runTokenize(cmd.Context(), global, o, args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.prompt, "prompt", "p", "", "the text")
	flags.StringVar(&o.text, "text", "", "a file of UTF-8 text, of any size")
	flags.BoolVar(&o.noBOS, "no-bos", false, "leave out the special tokens that the tokenizer adds")
	return cmd
}

func runTokenize(ctx context.Context, global *globalOptions, o *tokenizeOptions, path string) error {
	text := eval.StringText("the prompt", o.prompt)
	if o.text != "" {
		var err error
		if text, err = eval.FileText(o.text); err != nil {
			return err
		}
	}
	c, err := openModel(path)
	if err != nil {
		return err
	}
	defer c.Close()
	tok, err := model.OpenTokenizer(c)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	in, err := text.Reader()
	if err != nil {
		return err
	}
	defer in.Close()

	out := bufio.NewWriterSize(global.ui.out, 1<<16)
	print := plainTokens(out)
	if global.ui.json {
		print = jsonTokens(out, path, tok.Piece)
	}
	err = tok.EncodeReader(in, !o.noBOS, func(ids []int32) error {
		for _, id := range ids {
			print(id)
		}
		return ctx.Err()
	})
	if err != nil {
		return err // the output is cut off, which the exit code says
	}
	print(endOfTokens)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("cannot write the tokens: %w", err)
	}
	return nil
}

// endOfTokens, printed last, ends the line or the document.
const endOfTokens = -1

// plainTokens returns a function that writes ids on one line. Errors stay in
// the writer until it is flushed.
func plainTokens(out *bufio.Writer) func(int32) {
	first := true
	var buf []byte
	return func(id int32) {
		if id == endOfTokens {
			_ = out.WriteByte('\n')
			return
		}
		if !first {
			_ = out.WriteByte(' ')
		}
		first = false
		buf = strconv.AppendInt(buf[:0], int64(id), 10)
		_, _ = out.Write(buf)
	}
}

// jsonTokens returns a function that writes the document
// {"model":...,"tokens":[{"id":...,"piece":...},...],"count":...} as it goes.
func jsonTokens(out io.Writer, path string, piece func(int32) string) func(int32) {
	count := 0
	return func(id int32) {
		if count == 0 {
			fmt.Fprintf(out, `{"model":%s,"tokens":[`, jsonString(path))
		}
		if id == endOfTokens {
			fmt.Fprintf(out, "],\"count\":%d}\n", count)
			return
		}
		if count > 0 {
			fmt.Fprint(out, ",")
		}
		fmt.Fprintf(out, "\n{\"id\":%d,\"piece\":%s}", id, jsonString(piece(id)))
		count++
	}
}

// jsonString is a text as JSON has it; what is not UTF-8, such as a token that
// is a part of a character, becomes U+FFFD.
func jsonString(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string has no errors
	return bytes.TrimSpace(b.Bytes())
}
