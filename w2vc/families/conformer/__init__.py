"""wav2vec2-conformer: ``Wav2Vec2Model`` with conformer layers, pretrained or fine-tuned with CTC."""
