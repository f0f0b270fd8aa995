"""The public names of the conformance kit: where each is defined."""

from .clauses import Capability as Capability
from .clauses import Clause as Clause
from .faults import CallEnd as CallEnd
from .faults import Fault as Fault
from .faults import Faulty as Faulty
from .faults import Moment as Moment
from .filter_suite import FilterConformance as FilterConformance
from .filters import Actions as Actions
from .filters import Echo as Echo
from .filters import Mean as Mean
from .fuzzing import FuzzRun as FuzzRun
from .leftovers import OpenResources as OpenResources
from .leftovers import ProcessMark as ProcessMark
from .mutations import Mutant as Mutant
from .mutations import Mutator as Mutator
from .mutations import preparation as preparation
from .transport_suite import TransportConformance as TransportConformance
from .trials import GRACE as GRACE
from .trials import Trial as Trial
from .trials import attempt as attempt
from .trials import deadline_of as deadline_of
from .trials import inject as inject
