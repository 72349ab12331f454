"""Speech recognition: sounds and their transcripts, an encoder-decoder with a front end for spectrograms."""

from research.data import recorded
from research.data.sound import speech as sounds
from research.models.speech import Recogniser, RecogniserSpec
from research.spec import field
from research.tasks import speech
from research.tasks.speech import SpeechTaskSpec
from research.train.settings import Experiment


class SpeechRecognition(Experiment, tag="speech_recognition"):
    """Sounds and their transcripts, an encoder-decoder with a front end for spectrograms."""

    data: sounds.SpeechSpec = field(default=sounds.SpeechSpec(), doc="the sounds")
    model: RecogniserSpec = field(default=RecogniserSpec(), doc="the model")
    task: SpeechTaskSpec = field(default=SpeechTaskSpec(), doc="the loss, and how transcripts are made")

    def build(self, known: recorded.Recorded | None = None) -> tuple[speech.SpeechTask, sounds.Speech]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        data = sounds.load(self.data, self.model.downsampling, known)
        words = data.vocabulary
        return self.make_task(words.size, bos=words.bos, eos=words.eos, unk=words.unk), data

    def make_task(self, vocab_size: int, **special: int) -> speech.SpeechTask:
        """The task for a vocabulary size and the ids bos, eos and unk; no vocabulary file is needed."""
        train, longest = sounds.encoder_lengths(self.data, self.model.downsampling)
        model = Recogniser(
            self.model,
            vocab_size=vocab_size,
            ctc=self.task.ctc_weight > 0,
            max_source_length=longest,  # evaluation may have longer sounds than training
            max_target_length=max(self.data.target_length, self.task.max_decode_length),
            dtype=self.precision.compute,
            param_dtype=self.precision.params,
        )
        lengths = train, self.data.target_length
        return speech.SpeechTask(model, self.task, *lengths, **special, mels=self.data.mels)
