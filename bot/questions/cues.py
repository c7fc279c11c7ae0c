"""The words with which people ask for what a command does, in English, German and Spanish. Beside them count the words
of the command's own help."""

from __future__ import annotations

from collections.abc import Mapping

CUES: Mapping[str, str] = {
    "upload": (
        "upload add import file csv excel spreadsheet examples hochladen datei beispiele subir archivo "
        "ejemplos"
    ),
    "datasets": "datasets data which have list datensätze daten welche datos conjuntos lista tenemos",
    "baseline": (
        "measure baseline prompt prompting encoder accuracy good enough without training alternatives "
        "cheaper way messen genauigkeit prompt reicht ohne alternativen medir precisión suficiente sin "
        "entrenar alternativas"
    ),
    "curve": (
        "more data rows enough labelled examples help better learning curve need mehr daten genug zeilen "
        "brauchen más datos filas bastan suficientes"
    ),
    "knowledge": "documents retrieval wiki pdf manual knowledge dokumente handbuch wissen documentos conocimiento",
    "label": (
        "label labels annotate wrong mislabelled correct fix beschriften falsche labels etiquetar "
        "etiquetas corregir"
    ),
    "distill": (
        "distill teacher big model label automatically generate lehrer destillieren destilar profesor generar"
    ),
    "prices": "price prices cheapest model per token list preis preise token precio precios barato",
    "estimate": (
        "should worth pay off fine-tune finetune tune train roi save savings cost costs expensive payback "
        "decide lohnt sollen trainieren sparen kosten teuer rechnet vale pena entrenar ahorrar coste "
        "cuesta costaría deberíamos"
    ),
    "start": (
        "start begin launch train training run job kick now starte training beginnen empezar "
        "entrenamiento lanzar"
    ),
    "again": "again repeat rerun redo another epochs settings noch einmal wiederholen otra vez repetir",
    "status": (
        "status progress running happening going far done finished yet waiting when läuft fertig stand "
        "weit wartet estado progreso terminado falta marcha"
    ),
    "runs": (
        "runs history past previous earlier list läufe bisherige vergangene ejecuciones historial anteriores"
    ),
    "pause": "pause hold interrupt halt pausieren anhalten unterbrechen pausar detener",
    "resume": "resume continue unpause weiter fortsetzen continuar reanudar",
    "cancel": "cancel stop abort kill abbrechen stoppen cancelar parar abortar",
    "results": (
        "result results score accuracy how did well outcome ergebnis ergebnisse abgeschnitten resultado "
        "resultados"
    ),
    "compare": (
        "compare versus difference between better than side vergleichen unterschied comparar diferencia entre"
    ),
    "wrong": "wrong mistakes errors rows got failed misses fehler falsch zeilen errores fallos filas equivoca",
    "budget": (
        "budget spent spend left month money remaining ausgegeben übrig monat budget presupuesto gastado "
        "queda mes"
    ),
    "freeze": "freeze stop spending lock everything einfrieren sperren ausgaben congelar bloquear gastos",
    "unfreeze": "unfreeze lift unlock thaw freigeben aufheben descongelar desbloquear",
    "audit": "audit who approved did when log history wer genehmigt hat quién aprobó registro cuándo",
    "delete": "delete remove erase forget wipe gdpr löschen entfernen borrar eliminar",
    "rights": (
        "rights permissions allowed may can who approve policy darf rechte erlaubt permisos puede puedo "
        "derechos"
    ),
    "models": "models model in use production live now current modelle einsatz benutzt modelos uso producción",
    "try": "try ask test play question sample ausprobieren fragen probar pregunta preguntar",
    "pairs": "pairs preference thumbs dpo feedback paare präferenz daumen pares preferencias",
    "promote": (
        "promote deploy use switch put production live ship einsetzen umschalten desplegar usar "
        "producción poner tuned"
    ),
    "rollback": "rollback undo revert back previous old model zurück rückgängig volver atrás deshacer revertir",
    "fallback": "fallback outage down backup fails instead ausfall ersatz caída respaldo falla",
    "test": "test live shadow canary traffic real calls beside schatten echte aufrufe sombra llamadas reales",
    "watch": (
        "watch monitor drift week weekly monday worse quality still überwachen woche schlechter montag "
        "vigilar semana peor lunes sigue"
    ),
    "notify": (
        "notify notifications messages mute quiet alerts benachrichtigungen stumm notificaciones "
        "silenciar avisos"
    ),
    "help": "help commands do work explain hilfe befehle ayuda comandos",
}
