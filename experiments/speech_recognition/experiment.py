"""Speech recognition: sounds and their transcripts, an encoder-decoder with a front end for spectrograms."""

from research.data import recorded
from research.data import speech as sounds
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

    def build(self, known: recorded.Recorded | None = None) -> tuple[speech.Task, sounds.Speech]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        data = sounds.load(self.data, self.model.shortening, known)
        words, longest = data.vocabulary, max(self.data.target_length, self.task.max_decode_length)
        model = Recogniser(
            self.model,
            vocab_size=words.size,
            ctc=self.task.ctc_weight > 0,
            max_source_length=data.frames // self.model.shortening,  # evaluation hears longer sounds than training
            max_target_length=longest,
            dtype=self.precision.compute,
            param_dtype=self.precision.params,
        )
        task = speech.Task(
            model,
            self.task,
            source_length=data.places,
            target_length=self.data.target_length,
            bos=words.bos,
            eos=words.eos,
            unk=words.unk,
            mels=self.data.mels,
        )
        return task, data
