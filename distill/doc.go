// Package distill trains a student model on text, by what a teacher model
// predicts there.
//
// A [Trainer] takes the steps. Its [Goal] says what for: [Predictions] that cost
// little by a [Loss], of a [Teacher] that runs alongside ([Live]) or was kept in
// a file ([Cache]), besides that [Hidden] states, or these alone, [Layerwise].
// Its [Form] says what of the network is trained: [Full], [Quantized] weights or
// [LoRA]. [AdamW] makes steps of gradients, by a [Schedule]. [NewStudent] makes a
// smaller model of a larger one.
//
// The result is a function of models, text and options: it does not depend on
// the number of threads, and a run that was ended goes on from its state to the
// same bits.
package distill
